// SPDX-License-Identifier: Apache-2.0
//! Against the falcond of $FALCOND_SOCKET with its bundled model.
use falcond::{Client, Error, Prompt};
use serde_json::json;

const PROMPT: &str = "Once upon a time";

#[test]
fn a_run_streams_goes_on_and_forks() {
    let client = Client::dial(None).unwrap();
    let options = json!({"n": 20, "seed": 3, "ignore_eos": true});
    let mut run = client.generate(PROMPT.into(), options.clone()).unwrap();
    let (mut text, mut ids) = (String::new(), 0);
    for piece in &mut run {
        let piece = piece.unwrap();
        text += &piece.text;
        ids += piece.ids.len();
    }
    assert_eq!((ids, run.finish.as_deref()), (20, Some("length")));
    let mut again = client.generate(PROMPT.into(), options).unwrap();
    assert_eq!(again.text().unwrap(), text);
    let mut half = client.generate(PROMPT.into(), json!({"n": 10, "seed": 3, "ignore_eos": true})).unwrap();
    let begun = half.text().unwrap();
    half.append(Prompt::Nothing, json!({"n": 10})).unwrap();
    assert_eq!(begun + &half.text().unwrap(), text);
    let mut twin = run.fork().unwrap();
    run.append(" And".into(), json!({"n": 10})).unwrap();
    twin.append(" And".into(), json!({"n": 10})).unwrap();
    assert_eq!(run.text().unwrap(), twin.text().unwrap());
    for r in [run, again, half, twin] {
        r.drop_session().unwrap();
    }
}

#[test]
fn ids_and_conversations_are_prompts_too() {
    let client = Client::dial(None).unwrap();
    let ids = client.tokenize(PROMPT).unwrap();
    assert_eq!(client.detokenize(&ids).unwrap(), PROMPT);
    for prompt in [Prompt::Ids(ids), Prompt::Conversation(vec![("user".into(), PROMPT.into())])] {
        let mut run = client.generate(prompt, json!({"n": 3})).unwrap();
        run.text().unwrap();
        run.drop_session().unwrap();
    }
}

#[test]
fn log_probabilities_of_a_run_are_those_of_its_score() {
    let client = Client::dial(None).unwrap();
    let mut run = client.generate(PROMPT.into(), json!({"n": 6, "temp": 0, "logprobs": 2})).unwrap();
    let (mut ids, mut logprobs, mut top) = (client.tokenize(PROMPT).unwrap(), Vec::new(), Vec::new());
    for piece in &mut run {
        let piece = piece.unwrap();
        ids.extend(piece.ids);
        logprobs.extend(piece.logprobs);
        top.extend(piece.top_logprobs);
    }
    let given = run.n_given as usize;
    let firsts: Vec<_> = top.iter().map(|likeliest| likeliest[0]).collect();
    let taken: Vec<_> = ids[given..].iter().zip(&logprobs).map(|(id, logprob)| (*id, logprob.unwrap())).collect();
    assert_eq!(firsts, taken); // greedy
    assert!(top.iter().all(|likeliest| likeliest.len() == 2 && likeliest[0].1 >= likeliest[1].1));
    let n = ids.len();
    let score = client.score(Prompt::Ids(ids), json!({"logprobs": 2})).unwrap();
    assert_eq!((score.n_tokens as usize, score.logprobs.len()), (n, n - 1));
    assert_eq!(score.logprobs[given - 1..], logprobs);
    assert_eq!(score.top_logprobs[given - 1..], top);
    run.drop_session().unwrap();
}

#[test]
fn an_embedding_is_that_of_the_texts_tokens() {
    let client = Client::dial(None).unwrap();
    let vector = client.embed(PROMPT.into(), json!({})).unwrap();
    assert!(vector.len() > 100 && vector.iter().any(|x| *x != 0.0));
    let ids = client.tokenize(PROMPT).unwrap();
    assert_eq!(client.embed(Prompt::Ids(ids), json!({})).unwrap(), vector);
    assert_ne!(client.embed("Another text".into(), json!({})).unwrap(), vector);
}

#[test]
fn reading_ends_with_what_is_refused() {
    let client = Client::dial(None).unwrap();
    let mut run = client.generate(PROMPT.into(), json!({"n": 3, "ignore_eos": true})).unwrap();
    let name = std::mem::replace(&mut run.session, "nobody".into());
    assert!(matches!(run.next(), Some(Err(Error::Refused { .. }))));
    assert!(run.next().is_none());
    (run.session, run.finish) = (name, None);
    assert_eq!(run.by_ref().map(|piece| piece.unwrap().ids.len()).sum::<usize>(), 3);
    run.drop_session().unwrap();
}

#[test]
fn what_is_refused_has_a_code() {
    let client = Client::dial(None).unwrap();
    match client.call::<serde_json::Value>("next", json!({"session": "nobody", "cursor": 0})) {
        Err(Error::Refused { code, .. }) => assert_eq!(code, "no_session"),
        other => panic!("{other:?}"),
    }
}
