//! Plays foreign bytes to both ends of a tunnel, and holds the laws that no bytes may break.

use mesh_common::tunnel::{Event, Frame, Limits, MAX_WINDOW, Role, Session, frames};

/// The first byte of `input` says where it is cut into records and which end reads them.
pub fn run(input: &[u8]) {
    let Some((&choice, input)) = input.split_first() else { return };
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let limits = Limits { streams: 4, window: 1 << 20, grown: 100_000, early_resets: 2 };
    let mut session = Session::<u32>::new(role, limits);
    if role == Role::Client {
        for _ in 0..3 {
            let id = session.open(0).expect("a fresh tunnel takes streams");
            session.rename(id, id.0);
            session.sent(id, 100);
        }
    }
    for record in input.chunks(usize::from(choice >> 1).max(8) * 8) {
        if play(&mut session, record, choice).is_none() {
            return;
        }
    }
}

fn play(session: &mut Session<u32>, record: &[u8], choice: u8) -> Option<()> {
    for frame in frames(record) {
        let frame = frame.ok()?;
        reads_back(&frame);
        match session.receive(frame).ok()? {
            Event::Opened(id, _) => session.accept(id, id.0),
            // Every other stream is slow: nothing is consumed.
            Event::Data(id, name, bytes) if name % 2 == u32::from(choice >> 7) => {
                let _ = session.consumed(id, bytes.len());
            }
            _ => {}
        }
        assert!(session.len() <= 4);
        assert!(session.unconsumed() <= 4 * u64::from(MAX_WINDOW));
    }
    Some(())
}

fn reads_back(frame: &Frame<'_>) {
    let mut written = Vec::new();
    frame.write(&mut written);
    if !matches!(frame, Frame::BadOpen(..) | Frame::Ignored(_)) {
        assert_eq!(frames(&written).collect::<Vec<_>>(), [Ok(frame.clone())]);
    }
}
