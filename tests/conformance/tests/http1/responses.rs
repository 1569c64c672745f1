//! Responses beside two clients that others wrote: hyper's and Go's net/http. What ours accepts they accept, and understand
//! alike: status, fields, interim responses, body, trailers, where the response ends, and whether another may follow.

use std::cell::RefCell;

use anyhow::{Result, ensure};
use mesh_test_conformance::readers::{Answered, Reader};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use super::differential::End;
use super::mutation::{inputs, mutated, runner};
use super::response_readings::{Answer, Head, Reading, compare, hypers, ours};

#[test]
fn kept_responses_are_understood_as_others_understand_them() -> Result<()> {
    let mut client = Reader::start("net/http client")?;
    let kept = answers()?;
    let cases = kept.iter().flat_map(|input| [(false, input), (true, input)]);
    let differences: Vec<String> =
        cases.filter_map(|(is_head, input)| check(&mut client, is_head, input).err()).collect();
    ensure!(differences.is_empty(), "{}", differences.join("\n\n"));
    let whole = kept.iter().filter(|input| ours(false, input).answer.is_some()).count();
    ensure!(whole >= 8, "ours takes only {whole}");
    Ok(())
}

#[test]
fn mutated_responses_are_understood_as_others_understand_them() -> Result<()> {
    let client = RefCell::new(Reader::start("net/http client")?);
    let ran = runner(5_000).run(&(any::<bool>(), mutated(answers()?)), |(is_head, input)| {
        check(&mut client.borrow_mut(), is_head, &input).map_err(TestCaseError::fail)
    });
    ran.map_err(|failure| anyhow::anyhow!("{failure}"))
}

#[test]
fn built_responses_are_understood_as_others_understand_them() -> Result<()> {
    let client = RefCell::new(Reader::start("net/http client")?);
    let whole = RefCell::new(0);
    let ran = runner(5_000).run(&(any::<bool>(), built()), |(is_head, input)| {
        *whole.borrow_mut() += u32::from(ours(is_head, &input).answer.is_some());
        check(&mut client.borrow_mut(), is_head, &input).map_err(TestCaseError::fail)
    });
    ran.map_err(|failure| anyhow::anyhow!("{failure}"))?;
    // What is refused compares nothing.
    ensure!(whole.take() >= 1_000, "ours takes too few of them");
    Ok(())
}

fn check(client: &mut Reader, is_head: bool, input: &[u8]) -> Result<(), String> {
    let ours = ours(is_head, input);
    let theirs = client.ask_of_answer(is_head, input).map_err(|error| format!("{error:#}"))?;
    for (name, theirs) in [("hyper", hypers(is_head, input)), (client.name(), reading(theirs, input.len()))] {
        compare(&ours, &theirs).map_err(|difference| {
            let to = if is_head { "HEAD" } else { "GET" };
            format!("{name} reads '{}', to {to}, otherwise: {difference}", input.escape_ascii())
        })?;
    }
    Ok(())
}

fn reading(answered: Answered, length: usize) -> Reading {
    let Answered { mut responses, body, trailers, left, closes, refused } = answered;
    let heads = |(status, fields)| Head { status, fields, ..Head::default() };
    let last = if refused.is_empty() { responses.pop() } else { None };
    let answer = last.map(heads).map(|head| {
        let (end, stays) = (length - left, !closes);
        Answer { head, body, trailers, end, stays, ..Answer::default() }
    });
    let end = if refused.is_empty() { End::Over } else { End::Refused(refused) };
    Reading { interim: responses.into_iter().map(heads).collect(), answer, end }
}

/// What applications say in the inputs that fuzz targets keep.
fn answers() -> Result<Vec<Vec<u8>>> {
    // The first byte is the target's; the others are, in turn, the client's and the upstream's.
    let conversations = inputs("http1")?;
    let mut answers: Vec<Vec<u8>> = conversations
        .iter()
        .map(|input| {
            let sides = input[1..].split(|byte| *byte == 0xff);
            sides.skip(1).step_by(2).flatten().copied().collect()
        })
        .collect();
    // An odd number there says that it is a response.
    let messages = inputs("messages")?;
    answers.extend(messages.iter().filter(|input| input[0] & 1 == 1).map(|input| input[1..].to_vec()));
    answers.sort_unstable();
    answers.dedup();
    ensure!(answers.len() >= 20, "only {} answers", answers.len());
    Ok(answers)
}

/// Responses made of lines that matter to readers, so that many of them are right.
fn built() -> impl Strategy<Value = Vec<u8>> {
    let interim = prop::sample::select(vec![
        "",
        "",
        "",
        "HTTP/1.1 100 Continue\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\nLink: </b>\r\n\r\n",
        "HTTP/1.1 102 Processing\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 100\r\n\r\nHTTP/1.1 103 Hints\r\nX: y\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    ]);
    let start = prop::sample::select(vec![
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200\r\n",
        "HTTP/1.1 200 \r\n",
        "HTTP/1.0 200 OK\r\n",
        "HTTP/1.1 204 No Content\r\n",
        "HTTP/1.1 205 Reset Content\r\n",
        "HTTP/1.1 304 Not Modified\r\n",
        "HTTP/1.0 304 Not Modified\r\n",
        "HTTP/1.1 404  Not\tFound \r\n",
        "HTTP/1.1 599 \u{e9}\r\n",
        "HTTP/1.1 999 x\r\n",
    ]);
    let field = prop::sample::select(vec![
        "X-A:  1 \r\n",
        "x-a: \r\n",
        "X: \u{e9}\t\u{85}\r\n",
        "Set-Cookie: a=1\r\n",
        "set-cookie: b=2\r\n",
        "Date: now\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive\r\n",
        "Connection: X-A, close\r\n",
        "Keep-Alive: timeout=5\r\n",
        "Trailer: A\r\n",
        "Trailer: A, Content-Length\r\n",
        "Upgrade: h2c\r\n",
        "Host: x\r\n",
        "TE: trailers\r\n",
    ]);
    let body = prop::sample::select(vec![
        "\r\n",
        "\r\nabc",
        "Content-Length: 3\r\n\r\nabc",
        "content-length: 3\r\n\r\nab",
        "Content-Length: 0\r\n\r\n",
        "Content-Length:3 \r\n\r\nabc",
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Transfer-Encoding: Chunked\r\n\r\n3;x=\"y\"\r\nabc\r\n0a\r\n0123456789\r\n000\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nA: b\r\nA: c\r\nHost: d\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
    ]);
    let after =
        prop::sample::select(vec!["", "", "x", "\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"]);
    (interim, start, prop::collection::vec(field, 0..4), body, after).prop_map(
        |(interim, start, fields, body, after)| {
            format!("{interim}{start}{}{body}{after}", fields.concat()).into_bytes()
        },
    )
}
