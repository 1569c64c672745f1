//! One request and its response, carried from a client to where it is answered and back.
//!
//! In: bytes of either side. Out: the rebuilt bytes for the other one, and what each side is good for afterwards.
//! The same machine stands at both ends of a tunnel: at the source its upstream is a stream, at the destination a
//! connection of the application.

use super::{
    Authority, BodyFraming, BodyPart, BodyReader, BodyWriter, Field, HeadScan, Offer, ReadRules, Refusal,
    RequestHead, ResponseFor, ResponseHead, ResponseTo, UnevenBody, Version, write_request, write_response,
};
use crate::model::HeadEdits;

/// More interim responses than any application sends before its answer.
pub const MAX_INTERIM: u8 = 16;

/// One request and its response.
#[derive(Debug)]
pub struct Exchange {
    /// `None` once the request is complete.
    request: Option<(BodyReader, BodyWriter)>,
    response: Response,
    to: ResponseTo,
    client: ResponseFor,
    interim: u8,
    /// The status of the final response, or 0.
    status: u16,
    /// Whether the client's connection can carry another exchange, as far as is known.
    client_stays: bool,
    /// Likewise for the upstream connection.
    upstream_stays: bool,
    /// The client said that this request is its last one.
    is_last: bool,
    /// Body bytes that went up, and down.
    bytes: BodyBytes,
}

/// Body bytes of an exchange, without framing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodyBytes {
    /// Of the request.
    pub request: u64,
    /// Of the response.
    pub response: u64,
}

#[derive(Debug)]
enum Response {
    Head(HeadScan),
    Body(BodyReader, BodyWriter),
    /// After 101 the codec is out of the way in both directions.
    Opaque,
    Done,
}

impl Exchange {
    /// Starts with a request that may go on: appends its rebuilt head to `up`. `keep_client` says whether this
    /// side is willing to serve another request on the client's connection.
    pub fn start(
        head: &RequestHead<'_>,
        dialled: &Authority<'_>,
        added: &[Field<'_>],
        keep_client: bool,
        up: &mut Vec<u8>,
    ) -> Self {
        let is_head = head.method == b"HEAD";
        let writer = write_request(head, dialled, added, up);
        // What follows an offer that is not taken may be said in the other protocol: it is nobody's next request (RFC 9931).
        let keep_alive = head.keep_alive && keep_client && head.offer == Offer::None;
        let bodiless = matches!(head.framing, BodyFraming::None | BodyFraming::Length(0));
        Self {
            request: (!bodiless).then(|| (BodyReader::new(head.framing), writer)),
            response: Response::Head(HeadScan::default()),
            to: ResponseTo { head: is_head, websocket: head.offer == Offer::WebSocket },
            client: ResponseFor { version: head.version, keep_alive, head: is_head },
            interim: 0,
            status: 0,
            client_stays: keep_alive,
            upstream_stays: true,
            is_last: !head.keep_alive,
            bytes: BodyBytes::default(),
        }
    }

    /// Starts with a request that went out by another way, whole or not: only its response is carried.
    pub fn answering(to: ResponseTo) -> Self {
        Self {
            request: None,
            response: Response::Head(HeadScan::default()),
            to,
            client: ResponseFor { version: Version::Http11, keep_alive: true, head: to.head },
            interim: 0,
            status: 0,
            client_stays: true,
            upstream_stays: true,
            is_last: false,
            bytes: BodyBytes::default(),
        }
    }

    /// Takes bytes of the client, appends what goes up; returns how many were taken. Once the request is complete
    /// it takes none: they belong to the next one.
    ///
    /// # Errors
    /// A malformed body. What went up is then incomplete; the upstream is to be aborted.
    pub fn take_request(
        &mut self,
        input: &[u8],
        rules: &ReadRules<'_>,
        up: &mut Vec<u8>,
    ) -> Result<usize, Refusal> {
        if self.is_opaque() {
            up.extend_from_slice(input);
            self.bytes.request += input.len() as u64;
            return Ok(input.len());
        }
        let Some((reader, writer)) = &mut self.request else {
            return Ok(0);
        };
        let (taken, done) = pump(Pump { reader, writer, rules }, input, up, &mut self.bytes.request)?;
        if done {
            self.request = None;
        }
        Ok(taken)
    }

    /// Takes bytes of the upstream, appends what goes to the client, with `edits` of its final head; returns how many were
    /// taken. Bytes after the
    /// response's end are not taken: the upstream is then out of step and is not used again.
    ///
    /// # Errors
    /// A response that cannot be believed. If nothing of it was written yet ([`status`](Self::status) is 0) the
    /// client can still be told 502.
    pub fn take_response(
        &mut self,
        input: &[u8],
        rules: &ReadRules<'_>,
        edits: Option<&HeadEdits>,
        down: &mut Vec<u8>,
    ) -> Result<usize, Refusal> {
        let mut taken = 0;
        loop {
            let rest = &input[taken..];
            match &mut self.response {
                Response::Head(scan) => match ResponseHead::read(rest, scan, rules, self.to)? {
                    None => return Ok(taken),
                    Some(head) => {
                        taken += head.length;
                        self.take_response_head(&head, edits, down)?;
                    }
                },
                Response::Body(reader, writer) => {
                    let bytes = &mut self.bytes.response;
                    let (more, done) = pump(Pump { reader, writer, rules }, rest, down, bytes)?;
                    taken += more;
                    if !done {
                        return Ok(taken);
                    }
                    self.response = Response::Done;
                }
                Response::Opaque => {
                    down.extend_from_slice(rest);
                    self.bytes.response += rest.len() as u64;
                    return Ok(input.len());
                }
                Response::Done => {
                    self.upstream_stays &= rest.is_empty();
                    return Ok(taken);
                }
            }
        }
    }

    /// The upstream will send no more.
    ///
    /// # Errors
    /// [`Refusal::Truncated`] in the middle of a response.
    pub fn close_response(&mut self, down: &mut Vec<u8>) -> Result<(), Refusal> {
        self.upstream_stays = false;
        match &mut self.response {
            Response::Head(_) => return Err(Refusal::Truncated),
            Response::Body(reader, writer) => {
                reader.close()?;
                writer.finish(&[], down).map_err(|UnevenBody| Refusal::Truncated)?;
            }
            Response::Opaque | Response::Done => {}
        }
        self.response = Response::Done;
        Ok(())
    }

    fn take_response_head(
        &mut self,
        head: &ResponseHead<'_>,
        edits: Option<&HeadEdits>,
        down: &mut Vec<u8>,
    ) -> Result<(), Refusal> {
        if head.is_interim() {
            self.interim += 1;
            if self.interim > MAX_INTERIM {
                return Err(Refusal::TooManyInterim);
            }
            // RFC 9110 section 15.2: HTTP/1.0 has none.
            if self.client.version == Version::Http11 {
                write_response(head, None, self.client, down);
            }
            self.response = Response::Head(HeadScan::default());
            return Ok(());
        }
        // Answered before the request was complete: whether the client goes on sending it is not known, so its
        // connection ends with this answer.
        self.client.keep_alive &= self.request.is_none();
        let (writer, client_stays) = write_response(head, edits, self.client, down);
        self.status = head.status;
        self.client_stays &= client_stays;
        // Who declines a handshake may still think that it switched: nobody else's request goes there.
        self.upstream_stays &= head.keep_alive && !self.to.websocket;
        self.response = match head.status {
            101 => Response::Opaque,
            _ => Response::Body(BodyReader::new(head.framing), writer),
        };
        Ok(())
    }

    /// The client's connection will not carry another exchange.
    pub fn end_client(&mut self) {
        self.client.keep_alive = false;
        self.client_stays = false;
    }

    /// Whether the client itself said that nothing follows this request.
    pub fn is_last(&self) -> bool {
        self.is_last
    }

    /// Whether the whole request was taken. An offer to upgrade is complete, but may go on as an opaque stream.
    pub fn is_request_done(&self) -> bool {
        self.request.is_none()
    }

    /// Whether the whole response was written.
    pub fn is_response_done(&self) -> bool {
        matches!(self.response, Response::Done)
    }

    /// Whether the protocol has changed: bytes pass as they are, in both directions.
    pub fn is_opaque(&self) -> bool {
        matches!(self.response, Response::Opaque)
    }

    /// Whether the answer may still be that the protocol changes.
    pub fn may_become_opaque(&self) -> bool {
        self.to.websocket && matches!(self.response, Response::Head(_) | Response::Opaque)
    }

    /// The status of the final response; 0 while none was written.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Interim responses so far.
    pub fn interims(&self) -> u8 {
        self.interim
    }

    /// For whom an answer of the daemon's own would be written now.
    pub fn client(&self) -> ResponseFor {
        ResponseFor { keep_alive: self.client.keep_alive && self.request.is_none(), ..self.client }
    }

    /// Whether the client's connection can carry another exchange, once the response is done.
    pub fn client_stays(&self) -> bool {
        self.client_stays && self.is_request_done() && self.is_response_done()
    }

    /// Whether the upstream connection can carry another exchange: both messages complete, nothing left over,
    /// nobody asked to close.
    pub fn upstream_stays(&self) -> bool {
        self.upstream_stays && self.is_request_done() && self.is_response_done() && self.status != 101
    }

    /// Body bytes so far.
    pub fn bytes(&self) -> BodyBytes {
        self.bytes
    }
}

struct Pump<'p> {
    reader: &'p mut BodyReader,
    writer: &'p mut BodyWriter,
    rules: &'p ReadRules<'p>,
}

/// Moves a body on; returns how much of the input was taken and whether that was its end.
fn pump(pump: Pump<'_>, input: &[u8], out: &mut Vec<u8>, count: &mut u64) -> Result<(usize, bool), Refusal> {
    let Pump { reader, writer, rules } = pump;
    let mut taken = 0;
    loop {
        let step = reader.read(&input[taken..], rules)?;
        taken += step.consumed;
        match step.part {
            BodyPart::Pending => return Ok((taken, false)),
            BodyPart::Bytes(bytes) => {
                *count += bytes.len() as u64;
                writer.write(bytes, out).map_err(|UnevenBody| Refusal::ForbiddenBody)?;
            }
            BodyPart::End(trailers) => {
                writer.finish(&trailers, out).map_err(|UnevenBody| Refusal::Truncated)?;
                return Ok((taken, true));
            }
        }
    }
}
