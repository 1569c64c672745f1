//! What the agent takes of the node's memory while it waits.

use std::fs;
use std::ops::Range;

use rustix::mm::{Advice, madvise};
use tracing::debug;

/// Gives back the program's text that only starting needed: more than half of what an idle agent takes. The kernel
/// maps text in blocks around each page that is used, and keeps what is mapped; what is used again is mapped again,
/// from the page cache, without a look at the disk.
pub(super) fn give_text_back() {
    for range in text() {
        // SAFETY: these pages hold what their file holds: they are private, and the program never wrote to them. Whoever
        // reads or runs them next finds the same bytes. (A debugger's breakpoints, which are copies, are lost.)
        if let Err(error) = unsafe { madvise(range.start as *mut _, range.len(), Advice::LinuxDontNeed) } {
            debug!(%error, "a part of the program's text stays in memory");
        }
    }
}

/// Executable parts of files, as proc_pid_maps(5) has them: text has no relocations, so it was never written. Not data
/// that is read-only by now: that has been relocated.
fn text() -> Vec<Range<usize>> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap_or_default();
    maps.lines().filter_map(text_in).collect()
}

fn text_in(line: &str) -> Option<Range<usize>> {
    let mut words = line.split_ascii_whitespace();
    let (range, rights, _offset, _device, inode) =
        (words.next()?, words.next()?, words.next()?, words.next()?, words.next()?);
    let (start, end) = range.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    (rights == "r-xp" && inode != "0").then_some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_text_of_files_is_given_back() {
        let text = |line| text_in(line);
        assert_eq!(text("55d0-55f0 r-xp 0004 fe:00 1234   /usr/bin/mesh-node"), Some(0x55d0..0x55f0));
        assert_eq!(text("55f0-5600 r--p 0004 fe:00 1234   /usr/bin/mesh-node"), None);
        assert_eq!(text("5600-5610 rw-p 0004 fe:00 1234   /usr/bin/mesh-node"), None);
        assert_eq!(text("55d0-55f0 rwxp 0004 fe:00 1234   /usr/bin/mesh-node"), None);
        assert_eq!(text("7ffe-7fff r-xp 0000 00:00 0      [vdso]"), None);
        assert_eq!(text("7ffe-7fff r-xp 0000 00:00 0"), None);
        assert_eq!(text("what is this"), None);
    }

    #[test]
    fn text_that_is_given_back_takes_no_memory_and_runs_on() {
        // Other tests run beside this one and take theirs again; none gives any back.
        let falls = || {
            let before = resident_text();
            give_text_back();
            resident_text() < before
        };
        assert!((0..100).any(|_| falls()), "{} kB of text stay", resident_text());
    }

    /// In kB.
    fn resident_text() -> usize {
        let maps = fs::read_to_string("/proc/self/smaps").expect("proc(5) has it");
        let (mut sum, mut is_text) = (0, false);
        for line in maps.lines() {
            if let Some(size) = line.strip_prefix("Rss:").filter(|_| is_text) {
                sum += size.trim().trim_end_matches(" kB").parse::<usize>().expect("a number of kB");
            } else if line.split(' ').next().is_some_and(|word| word.contains('-')) {
                is_text = text_in(line).is_some();
            }
        }
        sum
    }
}
