//! Finds where a head ends, in whatever pieces it comes.

use memchr::memchr;

use super::{Limits, Refusal};

/// How far a head has been looked through. Each byte is looked at once, however the head is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadScan {
    /// Bytes before this hold no end.
    scanned: usize,
    /// Where the line that is being read begins.
    line: usize,
    /// Whether the start line has ended.
    past_start_line: bool,
    /// Bytes of an empty line before the start line.
    leading: usize,
}

/// The bytes of a head inside its input, its last empty line included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadRange {
    /// After an empty line that is skipped.
    pub start: usize,
    /// One past the last LF.
    pub end: usize,
}

impl HeadScan {
    /// Looks for the end of the head that `input` begins with; `None` asks for more input after the same bytes.
    pub(super) fn head(&mut self, input: &[u8], limits: &Limits) -> Result<Option<HeadRange>, Refusal> {
        let window = &input[..input.len().min(self.leading + limits.head)];
        while let Some(offset) = memchr(b'\n', &window[self.scanned..]) {
            let feed = self.scanned + offset;
            if self.end_line(window, feed, limits)? {
                return Ok(Some(HeadRange { start: self.leading, end: feed + 1 }));
            }
        }
        self.scanned = window.len();
        if !self.past_start_line && window.len() - self.line > limits.start_line {
            return Err(Refusal::StartLineTooLong);
        }
        if input.len() >= self.leading + limits.head {
            return Err(Refusal::HeadTooLarge);
        }
        Ok(None)
    }

    /// Looks for the end of a trailer section: an empty line at once, or after fields. Returns its length.
    pub(super) fn trailers(&mut self, input: &[u8], limits: &Limits) -> Result<Option<usize>, Refusal> {
        self.past_start_line = true;
        let limits = Limits { head: limits.trailers, ..*limits };
        match self.head(input, &limits) {
            Ok(range) => Ok(range.map(|range| range.end)),
            Err(Refusal::HeadTooLarge) => Err(Refusal::TrailersTooLarge),
            Err(refusal) => Err(refusal),
        }
    }

    /// Takes the line that ends with the LF at `feed`; true if it is the empty line after a head.
    fn end_line(&mut self, window: &[u8], feed: usize, limits: &Limits) -> Result<bool, Refusal> {
        if !self.past_start_line && feed - self.line > limits.start_line {
            return Err(Refusal::StartLineTooLong);
        }
        let line = &window[self.line..feed];
        let Some(text) = line.strip_suffix(b"\r") else {
            return Err(Refusal::BareLineFeed);
        };
        self.scanned = feed + 1;
        self.line = feed + 1;
        if text.is_empty() {
            return self.empty_line();
        }
        if self.past_start_line && matches!(text[0], b' ' | b'\t') {
            return Err(Refusal::ObsoleteFolding);
        }
        self.past_start_line = true;
        Ok(false)
    }

    /// RFC 9112 section 2.2: one empty line before the request line is skipped, more are not.
    fn empty_line(&mut self) -> Result<bool, Refusal> {
        if self.past_start_line {
            return Ok(true);
        }
        if self.leading > 0 {
            return Err(Refusal::StartLine);
        }
        self.leading = self.line;
        Ok(false)
    }
}
