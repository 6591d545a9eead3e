// SPDX-License-Identifier: Apache-2.0
//! Streams an answer to its arguments, then goes on with the same session.
use std::io::Write;

fn main() -> Result<(), falcond::Error> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let prompt = if words.is_empty() { "Once upon a time".to_string() } else { words.join(" ") };
    let client = falcond::Client::dial(None)?;
    let mut run = client.generate(prompt.as_str().into(), serde_json::json!({"n": 40, "seed": 1}))?;
    for more in [true, false] {
        for piece in &mut run {
            print!("{}", piece?.text);
            let _ = std::io::stdout().flush();
        }
        if more {
            run.append(" And then".into(), serde_json::json!({"n": 40}))?;
        }
    }
    println!();
    run.drop_session()
}
