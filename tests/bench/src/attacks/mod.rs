//! A hostile pod beside one that behaves: what the second one sees of it, and what it costs the daemons.
//!
//! Each round of an attack is four measurements: the client alone, the client beside the attack, and both again without
//! a mesh, where the same attacker asks the server itself. Two programs share the machine's cores with the daemons, so
//! the last two say how much of what the client sees is no work of the mesh.

mod paced;
mod rows;
mod stand;
mod table;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};

pub use self::paced::Paced;
use self::rows::{ROWS, Row, Target};
use self::stand::{Attacked, Stand, Way, attacked, paced};
use self::table::{Measured, Round};
use crate::machine::{forget_peak, peak_megabytes, process_seconds, resident_megabytes};

/// The attack begins before the client and ends after it.
const MARGIN: Duration = Duration::from_millis(400);

/// What is measured, and how long.
#[derive(Args, Clone, Debug)]
pub struct AttackArgs {
    /// How often each attack is measured
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..))]
    rounds: u8,
    /// Seconds that each measurement lasts
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Only attacks whose name has this in it
    #[arg(long, default_value = "")]
    only: String,
    /// File for the figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
    /// More flags of both agents
    #[arg(last = true)]
    agent_flags: Vec<String>,
}

/// Measures every attack, and prints the table.
///
/// # Errors
/// Something of it does not work. A goal that is missed is no error: the last line names it.
pub fn run(args: &AttackArgs) -> Result<()> {
    let stand = Stand::start(&args.agent_flags)?;
    let rows = ROWS.into_iter().filter(|row| row.name.contains(&args.only));
    let mut all: Vec<Measured> = rows.map(|row| Measured { row, rounds: Vec::new() }).collect();
    let length = Duration::from_secs(args.seconds);
    println!("{}", table::head());
    // A slow minute of the machine hits one round of each attack, not all of one.
    for round in 1..=args.rounds {
        for measured in &mut all {
            let what = || format!("round {round} of {}", measured.row.name);
            let found = measure(&stand, measured.row, length).with_context(what);
            let found = found.inspect_err(|_| eprintln!("{}", stand.logs()))?;
            let alone = Measured { row: measured.row, rounds: vec![found.clone()] };
            println!("{}", alone.line());
            measured.rounds.push(found);
        }
    }
    print!("\n{}", table::table(&all));
    if let Some(path) = &args.json {
        let figures: Vec<Value> = all.iter().map(Measured::json).collect();
        let text = format!("{:#}\n", json!({"seconds": args.seconds, "attacks": figures}));
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn measure(stand: &Stand, row: Row, length: Duration) -> Result<Round> {
    let mut round = through_the_mesh(stand, row, length)?;
    let quiet = paced(stand.good(Way::Direct, length)?, length)?;
    let attack = stand.evil(Way::Direct, row.target, row.attack, length + MARGIN)?;
    let beside = paced(stand.good(Way::Direct, length)?, length)?;
    attacked(attack, length)?;
    round.direct_p99_us = [quiet.p99_us, beside.p99_us];
    Ok(round)
}

fn through_the_mesh(stand: &Stand, row: Row, length: Duration) -> Result<Round> {
    let daemons = stand.daemons();
    let before = used(daemons)?;
    let quiet = paced(stand.good(Way::Mesh, length)?, length)?;
    let own = (used(daemons)? - before) / length.as_secs_f64();

    let resident = daemons.map(resident_megabytes);
    daemons.into_iter().try_for_each(forget_peak)?;
    let (before, hostile_before) = (used(daemons)?, process_seconds(stand.turns_away())?);
    let attack = stand.evil(Way::Mesh, row.target, row.attack, length + MARGIN)?;
    let beside = paced(stand.good(Way::Mesh, length)?, length)?;
    let did = attacked(attack, length)?;
    let seconds = (length + MARGIN).as_secs_f64();
    let mut round = Round {
        p99_us: [quiet.p99_us, beside.p99_us],
        failed: beside.failed,
        daemons: (used(daemons)? - before - own * seconds).max(0.0),
        attacker: did.cpu_seconds,
        seconds,
        did: counted(did),
        ..Round::default()
    };
    if row.target == Target::TurnsAway {
        round.attacker += process_seconds(stand.turns_away())? - hostile_before;
    }
    for (daemon, before) in daemons.into_iter().zip(resident) {
        round.grown = round.grown.max(peak_megabytes(daemon)? - before?);
    }
    Ok(round)
}

/// What the attacker saw, in words.
fn counted(did: Attacked) -> BTreeMap<String, u64> {
    let counts = [("connections", did.connections), ("answers", did.answers), ("resets", did.resets)];
    let counts = counts.into_iter().map(|(what, count)| (what.to_owned(), count));
    let goaways = did.goaways.into_iter().map(|(code, count)| (format!("GOAWAY {code}"), count));
    let ended = did.ended.into_iter().map(|(how, count)| (format!("ended {how}"), count));
    counts.chain(goaways).chain(ended).filter(|(_, count)| *count > 0).collect()
}

fn used(daemons: [u32; 2]) -> Result<f64> {
    Ok(process_seconds(daemons[0])? + process_seconds(daemons[1])?)
}
