//! Servers and a client of HTTP/1.1 in Go, asked what they understand of what the other side says.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result};
use data_encoding::BASE64;
use serde_json::Value;

use crate::go_readers;

/// One that is running, asked over its standard input.
pub struct Reader {
    name: &'static str,
    child: Child,
    asked: ChildStdin,
    answers: BufReader<ChildStdout>,
}

/// Names and values.
pub type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// What a server understood of a connection.
#[derive(Debug)]
pub struct Understood {
    /// Those that were whole and accepted.
    pub requests: Vec<Understanding>,
    /// The status line of an answer of its own, or what it found wrong; empty if nothing.
    pub refused: String,
}

/// What it understood of a request.
#[derive(Debug)]
pub struct Understanding {
    /// As it has it.
    pub method: Vec<u8>,
    /// As it came.
    pub target: Vec<u8>,
    /// Empty if there is none.
    pub host: Vec<u8>,
    /// Names and values.
    pub fields: Fields,
    /// Without its framing.
    pub body: Vec<u8>,
    /// Names and values.
    pub trailers: Fields,
}

/// What a client understood of an answer.
#[derive(Debug)]
pub struct Answered {
    /// Status and fields of each response: the interim ones and, unless it was refused, the final one.
    pub responses: Vec<(u16, Fields)>,
    /// Of the final one, without its framing.
    pub body: Vec<u8>,
    /// Names and values.
    pub trailers: Fields,
    /// Bytes that were said after its end.
    pub left: usize,
    /// Whether the connection ends with it.
    pub closes: bool,
    /// What is wrong with it; empty if nothing.
    pub refused: String,
}

impl Reader {
    /// Starts `net/http`, `fasthttp` or `net/http client`; builds them if they are not there.
    ///
    /// # Errors
    /// Go is missing or fails, or the program does not start.
    pub fn start(name: &'static str) -> Result<Self> {
        let mut command = Command::new(go_readers()?);
        command.arg(name).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("start {name}"))?;
        let asked = child.stdin.take().context("standard input is piped")?;
        let answers = BufReader::new(child.stdout.take().context("standard output is piped")?);
        Ok(Self { name, child, asked, answers })
    }

    /// Which one it is.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Asks what it understands of a connection on which a client says `input` and closes its side.
    ///
    /// # Errors
    /// It has ended, or answers what cannot be read.
    pub fn ask(&mut self, input: &[u8]) -> Result<Understood> {
        let said = self.exchange(&[input])?;
        understood(&said).with_context(|| format!("{} says {said}", self.name))
    }

    /// Asks a client what it understands of what a server says before it closes, in answer to a request to HEAD or to GET.
    ///
    /// # Errors
    /// It has ended, or answers what cannot be read.
    pub fn ask_of_answer(&mut self, is_head: bool, input: &[u8]) -> Result<Answered> {
        let said = self.exchange(&[&[u8::from(is_head)], input])?;
        answered(&said).with_context(|| format!("{} says {said}", self.name))
    }

    fn exchange(&mut self, question: &[&[u8]]) -> Result<Value> {
        let question = question.concat();
        let mut written = u32::try_from(question.len())?.to_be_bytes().to_vec();
        written.extend_from_slice(&question);
        self.asked.write_all(&written).with_context(|| format!("ask {}", self.name))?;
        let mut line = String::new();
        self.answers.read_line(&mut line).with_context(|| format!("hear {}", self.name))?;
        serde_json::from_str(&line).with_context(|| format!("{} says {line:?}", self.name))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        // It may have ended by itself; there is nobody left to tell.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn understood(said: &Value) -> Result<Understood> {
    let requests = said["requests"].as_array().into_iter().flatten().map(understanding);
    let refused = said["refused"].as_str().context("refused is text")?.to_owned();
    Ok(Understood { requests: requests.collect::<Result<_>>()?, refused })
}

fn understanding(said: &Value) -> Result<Understanding> {
    Ok(Understanding {
        method: bytes(&said["method"])?,
        target: bytes(&said["target"])?,
        host: bytes(&said["host"])?,
        fields: fields(&said["fields"])?,
        body: bytes(&said["body"])?,
        trailers: fields(&said["trailers"])?,
    })
}

fn answered(said: &Value) -> Result<Answered> {
    let responses = said["responses"].as_array().into_iter().flatten().map(|response| {
        let status = response["status"].as_u64().context("a status is a number")?;
        Ok((u16::try_from(status)?, fields(&response["fields"])?))
    });
    Ok(Answered {
        responses: responses.collect::<Result<_>>()?,
        body: bytes(&said["body"])?,
        trailers: fields(&said["trailers"])?,
        left: usize::try_from(said["left"].as_u64().context("what is left is a number")?)?,
        closes: said["closes"].as_bool().context("it closes or not")?,
        refused: said["refused"].as_str().context("refused is text")?.to_owned(),
    })
}

/// Go writes no bytes as null.
fn bytes(said: &Value) -> Result<Vec<u8>> {
    BASE64.decode(said.as_str().unwrap_or_default().as_bytes()).context("bytes are in base64")
}

fn fields(said: &Value) -> Result<Fields> {
    let pairs = said.as_array().into_iter().flatten();
    pairs.map(|pair| Ok((bytes(&pair[0])?, bytes(&pair[1])?))).collect()
}
