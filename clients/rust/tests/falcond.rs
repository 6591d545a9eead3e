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
    let mut twin = run.fork().unwrap();
    run.append(" And".into(), json!({"n": 10})).unwrap();
    twin.append(" And".into(), json!({"n": 10})).unwrap();
    assert_eq!(run.text().unwrap(), twin.text().unwrap());
    for r in [run, again, twin] {
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
fn what_is_refused_has_a_code() {
    let client = Client::dial(None).unwrap();
    match client.call::<serde_json::Value>("next", json!({"session": "nobody", "cursor": 0})) {
        Err(Error::Refused { code, .. }) => assert_eq!(code, "no_session"),
        other => panic!("{other:?}"),
    }
}
