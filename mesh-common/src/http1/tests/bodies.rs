//! Bodies by length and in chunks, good and bad.

use crate::http1::*;

/// Reads a whole body; returns it, its trailers as text, and what follows it.
fn read(framing: BodyFraming, input: &[u8]) -> Result<(Vec<u8>, String, Vec<u8>), Refusal> {
    let rules = ReadRules::default();
    let mut reader = BodyReader::new(framing);
    let (mut position, mut body) = (0, Vec::new());
    loop {
        let step = reader.read(&input[position..], &rules)?;
        position += step.consumed;
        match step.part {
            BodyPart::Pending => return reader.close().map(|()| (body, String::new(), Vec::new())),
            BodyPart::Bytes(bytes) => body.extend_from_slice(bytes),
            BodyPart::End(trailers) => {
                let mut text = Vec::new();
                super::super::write::write_fields(&trailers, &mut text);
                return Ok((body, String::from_utf8(text).unwrap(), input[position..].to_vec()));
            }
        }
    }
}

fn check(input: &str, expected: Refusal) {
    assert_eq!(read(BodyFraming::Chunked, input.as_bytes()).unwrap_err(), expected, "{input:?}");
}

#[test]
fn a_length_ends_where_it_says() {
    let (body, _, rest) = read(BodyFraming::Length(5), b"helloGET /").unwrap();
    assert_eq!((body.as_slice(), rest.as_slice()), (&b"hello"[..], &b"GET /"[..]));
    assert_eq!(read(BodyFraming::Length(5), b"hell").unwrap_err(), Refusal::Truncated);
    assert_eq!(read(BodyFraming::None, b"GET /").unwrap().2, b"GET /");
}

#[test]
fn chunks_end_with_their_trailers() {
    let input = b"5\r\nhello\r\n00a;x=\"y z\"\r\n, chunked!\r\n0\r\nGrpc-Status: 0\r\nContent-Length: 9\r\nHost: b\r\n\r\nGET /";
    let (body, trailers, rest) = read(BodyFraming::Chunked, input).unwrap();
    assert_eq!(String::from_utf8(body).unwrap(), "hello, chunked!");
    assert_eq!((trailers.as_str(), rest.as_slice()), ("Grpc-Status: 0\r\n", &b"GET /"[..]));
    assert_eq!(read(BodyFraming::Chunked, b"0\r\n\r\n").unwrap().0, b"");
}

#[test]
fn a_size_line_is_hex_digits_and_cr_lf() {
    for line in [
        "0x1\r\n",
        "+1\r\n",
        "-1\r\n",
        " 1\r\n",
        "1 \r\n",
        "1_0\r\n",
        "\r\n",
        ";x\r\n",
        "1\n",
        "1\r1",
        "g\r\n",
        "1;\x01\r\n",
        "2;\nxx",
        "1000000000000000\r\n",
        "1;x\r\rZ",
        "1;\u{e9}\r\n",
    ] {
        check(line, Refusal::ChunkSize);
    }
    for input in ["1\r\nZZ\r\n", "1\r\nZ\n", "1\r\nZ\rX", "1\r\nZ0\r\n\r\n"] {
        check(input, Refusal::ChunkEnd);
    }
    check("1\r\nZ", Refusal::Truncated);
    check("0\r\n", Refusal::Truncated);
}

#[test]
fn extensions_are_bounded_over_the_whole_message() {
    let chunk = format!("1;{}\r\nx\r\n", "y".repeat(100));
    check(&chunk.repeat(50), Refusal::ChunkExtensions);
    assert_eq!(
        read(BodyFraming::Chunked, format!("{}0\r\n\r\n", chunk.repeat(40)).as_bytes()).unwrap().0.len(),
        40
    );
}

#[test]
fn trailers_are_strict_and_bounded() {
    check("0\r\nX : a\r\n\r\n", Refusal::Trailers);
    check("0\r\nX: a\n\r\n", Refusal::BareLineFeed);
    check("0\r\nX: a\r\n b\r\n\r\n", Refusal::ObsoleteFolding);
    check(&format!("0\r\n{}\r\n", "X: a\r\n".repeat(101)), Refusal::TrailersTooLarge);
    check(&format!("0\r\nX: {}\r\n\r\n", "a".repeat(9 << 10)), Refusal::TrailersTooLarge);
}

#[test]
fn a_writer_holds_to_what_its_head_announced() {
    let mut out = Vec::new();
    let mut writer = BodyWriter::new(BodyFraming::Length(3));
    assert_eq!(writer.write(b"ab", &mut out), Ok(()));
    assert_eq!(writer.finish(&[], &mut out), Err(UnevenBody));
    assert_eq!(writer.write(b"cd", &mut out), Err(UnevenBody));
    assert_eq!(BodyWriter::new(BodyFraming::None).write(b"a", &mut out), Err(UnevenBody));
    out.clear();
    let mut writer = BodyWriter::new(BodyFraming::Chunked);
    writer.write(&[b'x'; 26], &mut out).unwrap();
    writer.write(b"", &mut out).unwrap();
    writer.finish(&[Field { name: b"A", value: b"b" }], &mut out).unwrap();
    assert_eq!(String::from_utf8(out).unwrap(), format!("1a\r\n{}\r\n0\r\nA: b\r\n\r\n", "x".repeat(26)));
}
