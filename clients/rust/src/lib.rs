// SPDX-License-Identifier: Apache-2.0
//! A client of falcond over nng.
//!
//! ```no_run
//! # fn main() -> Result<(), falcond::Error> {
//! let client = falcond::Client::dial(None)?;
//! let mut run = client.generate("Once upon a time".into(), serde_json::json!({"n": 100}))?;
//! for piece in &mut run {
//!     print!("{}", piece?.text);
//! }
//! # Ok(()) }
//! ```
//!
//! A session lives in the daemon; streaming is a cursor, so a daemon that restarts costs a pause and no token. Every operation and
//! field: docs/PROTOCOL.md.

use nng::options::{Options, ReconnectMaxTime, ReconnectMinTime, RecvTimeout, SendTimeout};
use nng::{Protocol, Socket};
use serde::de::DeserializeOwned;
use serde::Deserialize;
use serde_json::{json, Map, Value};
use std::cell::Cell;
use std::marker::PhantomData;
use std::time::Duration;

pub const DEFAULT_URL: &str = "ipc:///run/falcond/falcond.sock";

/// Of one `next`: the longest that falcond waits, in milliseconds.
const WAIT_MS: u32 = 30_000;

#[derive(Debug)]
pub enum Error {
    /// What falcond refused: code as in docs/PROTOCOL.md, such as "no_session".
    Refused { code: String, message: String, hint: String },
    Nng(nng::Error),
    Json(serde_json::Error),
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Refused { code, message, hint } if hint.is_empty() => write!(f, "{code}: {message}"),
            Error::Refused { code, message, hint } => write!(f, "{code}: {message} ({hint})"),
            Error::Nng(e) => e.fmt(f),
            Error::Json(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<nng::Error> for Error {
    fn from(e: nng::Error) -> Self {
        Error::Nng(e)
    }
}

impl From<serde_json::Error> for Error {
    fn from(e: serde_json::Error) -> Self {
        Error::Json(e)
    }
}

/// What a run begins with: a text, token ids, or the messages of a conversation as (role, content). Nothing: `append` goes on where
/// the run ended.
pub enum Prompt {
    Nothing,
    Text(String),
    Ids(Vec<i32>),
    Conversation(Vec<(String, String)>),
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        Prompt::Text(text.into())
    }
}

impl Prompt {
    fn put(self, request: &mut Map<String, Value>) {
        let (field, value) = match self {
            Prompt::Nothing => return,
            Prompt::Text(text) => ("prompt", json!(text)),
            Prompt::Ids(ids) => ("ids", json!(ids)),
            Prompt::Conversation(messages) => {
                let list: Vec<_> = messages.iter().map(|(role, content)| json!({"role": role, "content": content})).collect();
                ("messages", json!(list))
            }
        };
        request.insert(field.into(), value);
    }
}

/// A token and the natural logarithm of the model's own probability of it.
pub type Likely = (i32, f64);

/// What is new of a run. `finish` is none while it goes on. Of a run with the option `logprobs`, `logprobs` has one for each of `ids`
/// (none: unknown), and with it above 0 `top_logprobs` the likeliest tokens in its place, in falling order.
#[derive(Debug, Clone, Deserialize)]
pub struct Piece {
    pub text: String,
    pub ids: Vec<i32>,
    pub cursor: u32,
    pub finish: Option<String>,
    #[serde(default)]
    pub logprobs: Vec<Option<f64>>,
    #[serde(default)]
    pub top_logprobs: Vec<Vec<Likely>>,
}

/// How likely the model finds a text of `n_tokens`: `logprobs[i]` is that of token i + 1, given all before it. With the option
/// `logprobs` above 0 `top_logprobs[i]` has so many of the likeliest tokens in its place.
#[derive(Debug, Clone, Default)]
pub struct Score {
    pub n_tokens: u32,
    pub logprobs: Vec<Option<f64>>,
    pub top_logprobs: Vec<Vec<Likely>>,
}

#[derive(Deserialize)]
struct Reading {
    session: String,
    n_tokens: u32,
}

/// A part of what is computed of a whole text: of a score log-probabilities, of an embedding all of it at the end.
#[derive(Deserialize)]
struct Part {
    cursor: u32,
    done: bool,
    finish: Option<String>,
    #[serde(default)]
    logprobs: Vec<Option<f64>>,
    #[serde(default)]
    top_logprobs: Vec<Vec<Likely>>,
    #[serde(default)]
    embedding: Vec<f32>,
}

#[derive(Deserialize)]
struct Started {
    session: String,
    cursor: u32,
    n_given: Option<u32>, // a fork does not tell it
}

/// A connection, for one thread at a time: a question that another thread asks meanwhile would be in the place of the first.
pub struct Client {
    socket: Socket,
    _not_shared: PhantomData<Cell<()>>,
}

fn fields(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// New for each request: the time and the process, and a counter.
fn request_id() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_nanos();
    format!("rust-{now:x}-{:x}-{:x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

impl Client {
    /// Connects to url; none: to $FALCOND_SOCKET, else the system's.
    pub fn dial(url: Option<&str>) -> Result<Client, Error> {
        let from_environment = std::env::var("FALCOND_SOCKET").ok();
        let url = url.or(from_environment.as_deref()).unwrap_or(DEFAULT_URL);
        let socket = Socket::new(Protocol::Req0)?;
        socket.set_opt::<ReconnectMinTime>(Some(Duration::from_millis(10)))?;
        socket.set_opt::<ReconnectMaxTime>(Some(Duration::from_millis(100)))?;
        // A falcond that restarted never saw the request: it is asked again, which is harmless.
        socket.set_opt::<nng::options::protocol::reqrep::ResendTime>(Some(Duration::from_secs(1)))?;
        socket.set_opt::<RecvTimeout>(Some(Duration::from_secs(60)))?;
        socket.set_opt::<SendTimeout>(Some(Duration::from_secs(60)))?;
        socket.dial(url)?;
        Ok(Client { socket, _not_shared: PhantomData })
    }

    /// Any operation of the protocol. `more` is an object with its fields.
    pub fn call<T: DeserializeOwned>(&self, op: &str, more: Value) -> Result<T, Error> {
        let mut request = fields(more);
        request.insert("op".into(), json!(op));
        self.socket.send(serde_json::to_vec(&request)?.as_slice()).map_err(|(_, e)| e)?;
        let reply: Value = serde_json::from_slice(&self.socket.recv()?)?;
        if let Some(e) = reply.get("error") {
            let text = |name: &str| e.get(name).and_then(Value::as_str).unwrap_or_default().to_string();
            return Err(Error::Refused { code: text("code"), message: text("message"), hint: text("hint") });
        }
        Ok(serde_json::from_value(reply)?)
    }

    /// Starts a session. `options` is an object: n, temp, seed, stop, logprobs, session ...
    pub fn generate(&self, prompt: Prompt, options: Value) -> Result<Run<'_>, Error> {
        let mut request = fields(options);
        request.insert("request_id".into(), json!(request_id()));
        prompt.put(&mut request);
        Ok(Run::new(self, self.call("generate", request.into())?))
    }

    /// Has op compute a whole text and gives `take` each part; what it returns is the next cursor. The number of the text's tokens.
    fn read_whole(&self, op: &str, prompt: Prompt, options: Value, mut take: impl FnMut(Part) -> u32) -> Result<u32, Error> {
        let mut request = fields(options);
        request.insert("request_id".into(), json!(request_id()));
        prompt.put(&mut request);
        let made: Reading = self.call(op, request.into())?;
        let mut cursor = 0;
        let end = loop {
            let next = json!({"session": made.session, "cursor": cursor, "wait_ms": WAIT_MS});
            match self.call::<Part>("next", next) {
                Err(e) => break Err(e),
                Ok(part) if part.done && part.finish.as_deref() != Some("length") => {
                    let message = "the text could not be computed to its end".into();
                    break Err(Error::Refused { code: "engine_failed".into(), message, hint: String::new() });
                }
                Ok(part) => {
                    let done = part.done;
                    cursor = take(part);
                    if done {
                        break Ok(made.n_tokens);
                    }
                }
            }
        };
        self.call::<Value>("drop", json!({"session": made.session})).and(end)
    }

    /// How likely a text, or ids, are. `options` is an object: logprobs.
    pub fn score(&self, prompt: Prompt, options: Value) -> Result<Score, Error> {
        let mut score = Score::default();
        score.n_tokens = self.read_whole("score", prompt, options, |part| {
            score.logprobs.extend(part.logprobs);
            score.top_logprobs.extend(part.top_logprobs);
            part.cursor
        })?;
        Ok(score)
    }

    /// A text, or ids, as a vector: the mean of the last hidden states, not scaled to any length. `options` is an object: priority.
    pub fn embed(&self, prompt: Prompt, options: Value) -> Result<Vec<f32>, Error> {
        let mut embedding = Vec::new();
        self.read_whole("embed", prompt, options, |part| {
            embedding = part.embedding;
            0 // until it is there
        })?;
        Ok(embedding)
    }

    pub fn tokenize(&self, text: &str) -> Result<Vec<i32>, Error> {
        let reply: Value = self.call("tokenize", json!({"text": text}))?;
        Ok(serde_json::from_value(reply["ids"].clone())?)
    }

    pub fn detokenize(&self, ids: &[i32]) -> Result<String, Error> {
        let reply: Value = self.call("detokenize", json!({"ids": ids}))?;
        Ok(serde_json::from_value(reply["text"].clone())?)
    }

    pub fn status(&self) -> Result<Value, Error> {
        self.call("status", json!({}))
    }
}

/// A run of a session, and its pieces by iteration. Reading again begins where the last reading ended, after an error too; what falcond
/// refuses ends it, as `finish` says.
pub struct Run<'a> {
    client: &'a Client,
    pub session: String,
    pub cursor: u32,
    /// Tokens before the run's output.
    pub n_given: u32,
    pub finish: Option<String>,
}

impl<'a> Run<'a> {
    fn new(client: &'a Client, started: Started) -> Run<'a> {
        Run { client, n_given: started.n_given.unwrap_or(started.cursor), session: started.session, cursor: started.cursor, finish: None }
    }

    /// All that is still to come.
    pub fn text(&mut self) -> Result<String, Error> {
        self.map(|piece| piece.map(|p| p.text)).collect()
    }

    /// Goes on with more text, once the run is over; options that are left out stay as they were.
    pub fn append(&mut self, prompt: Prompt, options: Value) -> Result<(), Error> {
        let mut request = fields(options);
        request.insert("session".into(), json!(self.session));
        request.insert("at".into(), json!(self.cursor));
        prompt.put(&mut request);
        let started: Started = self.client.call("append", request.into())?;
        self.n_given = started.n_given.unwrap_or(started.cursor);
        self.cursor = started.cursor;
        self.finish = None;
        Ok(())
    }

    /// A second session with the same tokens, sharing what is computed.
    pub fn fork(&self) -> Result<Run<'a>, Error> {
        let request = json!({"session": self.session, "request_id": request_id()});
        Ok(Run::new(self.client, self.client.call("fork", request)?))
    }

    pub fn cancel(&self) -> Result<(), Error> {
        self.client.call::<Value>("cancel", json!({"session": self.session})).map(drop)
    }

    pub fn drop_session(self) -> Result<(), Error> {
        self.client.call::<Value>("drop", json!({"session": self.session})).map(drop)
    }
}

impl Iterator for Run<'_> {
    type Item = Result<Piece, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.finish.is_some() {
            return None;
        }
        let request = json!({"session": self.session, "cursor": self.cursor, "wait_ms": WAIT_MS});
        let piece = self.client.call::<Piece>("next", request);
        match &piece {
            Ok(p) => {
                self.cursor = p.cursor;
                self.finish = p.finish.clone();
            }
            Err(Error::Refused { .. }) => self.finish = Some("error".into()),
            Err(_) => (), // nobody answered in time: asked again, it goes on where it was
        }
        Some(piece)
    }
}
