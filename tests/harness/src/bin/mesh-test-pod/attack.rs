//! Runs an attack: connections that follow its script, each replaced when it ends. One thread, so that what it costs is
//! the cost of sending.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use mesh_test_harness::attacks::frames::Incoming;
use mesh_test_harness::attacks::{Attack, Script, Step};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{ClockId, Timespec, clock_gettime};
use serde_json::json;

use crate::connection::Connect;
use crate::report::{event, how};

/// Bytes that are written or read at a time.
const AT_ONCE: usize = 64 << 10;
/// Between two looks at the clock when nothing can be done.
const LOOK: Duration = Duration::from_millis(20);

/// Flags of `attack`.
#[derive(Args, Clone)]
pub(crate) struct AttackArguments {
    /// Which
    #[arg(value_enum)]
    attack: Attack,
    #[command(flatten)]
    connect: Connect,
    /// How long, in milliseconds
    #[arg(long, default_value = "2000")]
    for_ms: u64,
    /// Most connections, one after the other and at a time
    #[arg(long, default_value = "1000000")]
    most_connections: u64,
    /// Most bytes of one connection; it is kept open after them
    #[arg(long, default_value = "1000000000000")]
    most_bytes: u64,
}

/// One connection on its way through the script.
struct Attacker {
    stream: TcpStream,
    /// What is left of the beginning, or of the step.
    step: Option<usize>,
    sent: usize,
    bytes: u64,
    incoming: Incoming,
    /// What the step waits for.
    wanted: u64,
    next_drip: Instant,
    dripped: usize,
    /// Something may be sent or read: as many as wait are not asked one by one.
    is_ready: bool,
    /// The other side ended it: also who reads nothing else learns of that.
    is_over: bool,
}

/// What became of it all.
#[derive(Default)]
struct Tally {
    connections: u64,
    failed: BTreeMap<String, u64>,
    bytes: u64,
    answers: u64,
    resets: u64,
    goaways: BTreeMap<u32, u64>,
    ended: BTreeMap<String, u64>,
}

/// Whether a connection goes on.
enum Turn {
    /// Something was sent or read.
    Moved,
    /// It waits.
    Waits,
    /// Its script is over.
    Done,
    /// The other side ended it.
    Ended(String),
}

impl AttackArguments {
    /// Attacks, then reports once.
    pub(crate) fn run(&self) -> Result<()> {
        let script = self.attack.script();
        let (start, began) = (Instant::now(), cpu_seconds());
        let until = start + Duration::from_millis(self.for_ms);
        event(&json!({ "event": "attacking" }));
        let tally = match script {
            Some(script) => self.attack(&script, until),
            None => burn(until),
        };
        let cpu = cpu_seconds() - began;
        let Tally { connections, failed, bytes, answers, resets, goaways, ended } = tally;
        event(&json!({
            "event": "attacked", "seconds": start.elapsed().as_secs_f64(), "cpu_seconds": cpu,
            "connections": connections, "failed": failed, "bytes": bytes, "answers": answers, "resets": resets,
            "goaways": goaways.iter().map(|(code, count)| (code.to_string(), *count)).collect::<BTreeMap<_, _>>(),
            "ended": ended,
        }));
        Ok(())
    }

    fn attack(&self, script: &Script, until: Instant) -> Tally {
        let mut tally = Tally::default();
        let mut open: Vec<Attacker> = Vec::new();
        while Instant::now() < until {
            let has_more = tally.connections < self.most_connections;
            if open.is_empty() && !has_more {
                break;
            }
            let fills = open.len() < script.parallel && has_more;
            if fills {
                self.open(&mut open, &mut tally);
            }
            let has_moved = self.turn(script, &mut open, &mut tally);
            if !fills && !has_moved {
                wait(&mut open, script);
            }
        }
        open.into_iter().for_each(|attacker| attacker.over("open", &mut tally));
        tally
    }

    fn open(&self, open: &mut Vec<Attacker>, tally: &mut Tally) {
        tally.connections += 1;
        match self.connect.open().and_then(Attacker::new) {
            Ok(attacker) => open.push(attacker),
            Err(error) => {
                *tally.failed.entry(how(&error)).or_default() += 1;
                // The pace of attempts that fail at once.
                std::thread::sleep(LOOK);
            }
        }
    }

    /// One turn of each that is ready: whether anything moved.
    fn turn(&self, script: &Script, open: &mut Vec<Attacker>, tally: &mut Tally) -> bool {
        let (mut has_moved, mut at) = (false, 0);
        while let Some(attacker) = open.get_mut(at) {
            let turn = if attacker.is_ready { attacker.turn(script, self.most_bytes) } else { Turn::Waits };
            let ended = match turn {
                Turn::Moved => None,
                Turn::Waits => {
                    attacker.is_ready = false;
                    at += 1;
                    continue;
                }
                Turn::Done => Some("done".to_owned()),
                Turn::Ended(how) => Some(how),
            };
            has_moved = true;
            match ended {
                Some(how) => open.swap_remove(at).over(&how, tally),
                None => at += 1,
            }
        }
        has_moved
    }
}

impl Attacker {
    fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            step: None,
            sent: 0,
            bytes: 0,
            incoming: Incoming::default(),
            wanted: 0,
            next_drip: Instant::now(),
            dripped: 0,
            is_ready: true,
            is_over: false,
        })
    }

    /// Sends and reads what it can at once.
    fn turn(&mut self, script: &Script, most: u64) -> Turn {
        let (mut has_moved, mut error) = (false, None);
        match self.send(script, most) {
            Ok(Turn::Moved) => has_moved = true,
            Ok(Turn::Done) => return Turn::Done,
            Ok(_) => {}
            // What was said before the end is still there to be read.
            Err(failed) => error = Some(failed),
        }
        if !script.is_deaf || self.is_over || error.is_some() {
            match self.read() {
                Ok(read) => has_moved |= read,
                Err(failed) => return Turn::Ended(how(&failed)),
            }
        }
        match error {
            Some(error) => Turn::Ended(how(&error)),
            None if has_moved => Turn::Moved,
            None => Turn::Waits,
        }
    }

    fn send(&mut self, script: &Script, most: u64) -> io::Result<Turn> {
        if self.bytes >= most {
            return Ok(Turn::Waits);
        }
        let bytes = match self.step {
            None => &script.begin,
            Some(step) => match script.steps.get(step) {
                Some(Step::Send(bytes)) => bytes,
                Some(Step::Acks(_) | Step::Ends(_)) => return Ok(self.look(script)),
                None if script.repeats => {
                    self.step = Some(0);
                    return Ok(Turn::Moved);
                }
                None if script.drip.is_some() => return self.drip(script),
                None if script.stays => return Ok(Turn::Waits),
                None => return Ok(Turn::Done),
            },
        };
        let rest = &bytes[self.sent..];
        if rest.is_empty() {
            self.go_on(script);
            return Ok(Turn::Moved);
        }
        match self.stream.write(&rest[..rest.len().min(AT_ONCE)]) {
            Ok(count) => {
                self.sent += count;
                self.bytes += count as u64;
                Ok(Turn::Moved)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Turn::Waits),
            Err(error) => Err(error),
        }
    }

    fn go_on(&mut self, script: &Script) {
        let step = self.step.map_or(0, |step| step + 1);
        (self.step, self.sent) = (Some(step), 0);
        self.wanted = match script.steps.get(step) {
            Some(Step::Acks(count)) => self.incoming.acks + count,
            // What ended while the requests went out counts too.
            Some(Step::Ends(count)) => self.wanted_ends(*count),
            Some(Step::Send(_)) | None => 0,
        };
    }

    /// All requests of this connection so far were such batches.
    fn wanted_ends(&self, count: u64) -> u64 {
        let batches = self.step.map_or(0, |step| step as u64).div_ceil(2);
        batches * count
    }

    fn look(&mut self, script: &Script) -> Turn {
        let step = self.step.and_then(|step| script.steps.get(step));
        let has_come = match step {
            Some(Step::Acks(_)) => self.incoming.acks >= self.wanted,
            _ => self.incoming.ends + self.incoming.resets >= self.wanted,
        };
        if !has_come {
            return Turn::Waits;
        }
        self.go_on(script);
        Turn::Moved
    }

    fn drip(&mut self, script: &Script) -> io::Result<Turn> {
        let Some((bytes, pace)) = &script.drip else { return Ok(Turn::Waits) };
        if self.next_drip > Instant::now() {
            return Ok(Turn::Waits);
        }
        self.next_drip = Instant::now() + *pace;
        let at = self.dripped % bytes.len();
        match self.stream.write(&bytes[at..=at]) {
            Ok(count) => {
                self.dripped += count;
                self.bytes += count as u64;
                Ok(Turn::Moved)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Turn::Waits),
            Err(error) => Err(error),
        }
    }

    /// Whether anything came.
    fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; AT_ONCE];
        match self.stream.read(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.incoming.take(&buffer[..count]);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn over(self, how: &str, tally: &mut Tally) {
        *tally.ended.entry(how.to_owned()).or_default() += 1;
        tally.bytes += self.bytes;
        tally.answers += self.incoming.ends;
        tally.resets += self.incoming.resets;
        if let Some(code) = self.incoming.goaway {
            *tally.goaways.entry(code).or_default() += 1;
        }
    }
}

/// Until something comes or goes on one of them, or a byte is due.
fn wait(open: &mut [Attacker], script: &Script) {
    let mut waited: Vec<PollFd<'_>> = open
        .iter()
        .map(|attacker| {
            let sends =
                attacker.step.is_none_or(|step| matches!(script.steps.get(step), Some(Step::Send(_))));
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::OUT, sends);
            flags.set(PollFlags::IN, !script.is_deaf);
            PollFd::new(&attacker.stream, flags)
        })
        .collect();
    if let Ok(limit) = Timespec::try_from(LOOK) {
        // An interrupted wait is a short one.
        let _ = poll(&mut waited, Some(&limit));
    }
    let moved: Vec<PollFlags> = waited.iter().map(PollFd::revents).collect();
    let now = Instant::now();
    for (attacker, moved) in open.iter_mut().zip(moved) {
        attacker.is_over |= moved.intersects(PollFlags::HUP | PollFlags::ERR);
        attacker.is_ready |= !moved.is_empty() || script.drip.is_some() && attacker.next_drip <= now;
    }
}

/// Computes, as a control: what a program costs its neighbours that never sends.
fn burn(until: Instant) -> Tally {
    let mut number = 0_u64;
    while Instant::now() < until {
        for _ in 0..10_000 {
            number = std::hint::black_box(number.wrapping_mul(3).wrapping_add(1));
        }
    }
    Tally::default()
}

/// What this process has used, in user space and in the kernel.
fn cpu_seconds() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}
