//! `cargo xtask demo`: two nodes at work, shown with what was really observed.
//!
//! In: `--keep`. Out: a drawn session, and an error if anything was not as it should be. Everything that it makes is
//! removed by the reaper of the run, also when it is interrupted.

mod scene;
mod screen;
mod steps;

use anyhow::{Result, bail};

use self::screen::Screen;

/// Whether the scene stays up at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keep {
    /// Until the person interrupts.
    Up,
    /// Not at all.
    Nothing,
}

/// Plays the demo.
///
/// # Errors
/// The scene cannot be made, or something observed was not as it should be.
pub(crate) fn run(keep: Keep) -> Result<()> {
    println!("building mesh-node");
    mesh_test_harness::binary::mesh_node()?;
    mesh_test_harness::binary::test_pod()?;
    let mut screen = Screen::new();
    let mut stage = steps::Stage::set(&mut screen)?;
    stage.play(&mut screen)?;
    let good = screen.end();
    match keep {
        Keep::Up => stage.hold(&mut screen),
        Keep::Nothing => screen.say("to look around by hand: cargo xtask demo --keep"),
    }
    drop(stage);
    if !good {
        bail!("not everything was as it should be");
    }
    Ok(())
}
