//! A request about which somebody is asked: the client is held up, its bytes stay as they came.

use super::{Command, Commands, Court, Forwarded, Phase, Relay};
use crate::http1::{BodyFraming, BodyPart, BodyReader, ReadRules, Refusal, RequestHead, Version};

/// The request that waits, at the beginning of what is held of the client.
#[derive(Debug)]
pub(super) struct Parked {
    /// Where its body begins.
    head: usize,
    body: Option<Gathering>,
    /// The engine was told to ask.
    is_told: bool,
}

/// The beginning of its body.
#[derive(Debug)]
struct Gathering {
    reader: BodyReader,
    /// Bytes after the head that were looked at.
    looked: usize,
    bytes: Vec<u8>,
    most: usize,
    is_whole: bool,
    is_longer: bool,
}

impl Parked {
    fn of(head: &RequestHead<'_>, body: Option<usize>) -> Self {
        let is_empty = matches!(head.framing, BodyFraming::None | BodyFraming::Length(0));
        let gathering = |most| Gathering {
            reader: BodyReader::new(head.framing),
            looked: 0,
            bytes: Vec::new(),
            most,
            is_whole: is_empty,
            is_longer: false,
        };
        Self { head: head.length, body: body.map(gathering), is_told: false }
    }

    /// Whether somebody can be asked: the body is there as far as it is wanted.
    pub(super) fn is_ready(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_whole || body.is_longer)
    }

    /// Bytes of its body that came.
    pub(super) fn came(&self) -> u64 {
        self.body.as_ref().map_or(0, |body| body.bytes.len() as u64)
    }

    /// Bytes that it holds besides what the client sent.
    pub(super) fn held(&self) -> usize {
        self.body.as_ref().map_or(0, |body| body.bytes.capacity())
    }
}

impl Gathering {
    /// Looks at what is new of `sent`, which begins with the body.
    fn gather(&mut self, sent: &[u8], rules: &ReadRules<'_>) -> Result<(), Refusal> {
        while !self.is_whole && !self.is_longer {
            let step = self.reader.read(&sent[self.looked..], rules)?;
            self.looked += step.consumed;
            match step.part {
                BodyPart::Pending => break,
                BodyPart::End(_) => self.is_whole = true,
                BodyPart::Bytes(bytes) => {
                    let room = self.most - self.bytes.len();
                    self.bytes.extend_from_slice(&bytes[..bytes.len().min(room)]);
                    self.is_longer = bytes.len() > room;
                }
            }
        }
        Ok(())
    }
}

impl<P: Forwarded> Relay<P> {
    /// The beginning of the body of the request that waits, and whether that is all of it.
    pub fn gathered(&mut self) -> (Vec<u8>, bool) {
        let body = self.parked.as_mut().and_then(|parked| parked.body.as_mut());
        body.map_or((Vec::new(), false), |body| (std::mem::take(&mut body.bytes), body.is_whole))
    }

    /// Who was asked has answered: the request that waits is shown once more.
    pub fn resume(&mut self, court: &mut Court<'_, P>) -> Commands<P> {
        let mut commands = Commands::new();
        if self.parked.take().is_none() {
            return commands;
        }
        self.take_client(&[], court, &mut commands);
        if self.client_ended && self.parked.is_none() {
            commands.extend(self.client_ended());
        }
        commands
    }

    /// Holds up the client until [`resume`](Self::resume).
    pub(super) fn park(&mut self, head: &RequestHead<'_>, body: Option<usize>) {
        let parked = Parked::of(head, body);
        if head.expects_continue && head.version == Version::Http11 && !parked.is_ready() {
            // What the client waits for: its upstream is asked later, or never.
            self.to_client.buffer().extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        self.parked = Some(Box::new(parked));
    }

    /// Looks at `held`, which begins with the request that waits.
    pub(super) fn look_at_parked(&mut self, held: &[u8], rules: &ReadRules<'_>) -> Result<(), Refusal> {
        match self.parked.as_deref_mut() {
            Some(Parked { head, body: Some(body), .. }) => body.gather(&held[*head..], rules),
            _ => Ok(()),
        }
    }

    /// Has the engine ask, once.
    pub(super) fn ask_about_parked(&mut self, commands: &mut Commands<P>) {
        if let (Phase::Head(_), Some(parked)) = (&self.phase, &mut self.parked)
            && parked.is_ready()
            && !std::mem::replace(&mut parked.is_told, true)
        {
            commands.push(Command::Ask);
        }
    }
}
