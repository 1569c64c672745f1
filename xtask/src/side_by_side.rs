//! Runs several jobs at a time, and tells what each says as if they ran one after the other.
//!
//! In: jobs, and how many may run at a time. Out: their lines and results in the order of the jobs: those of the first that
//! is not over as they come, those of the others when it is their turn.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

/// What a job says.
#[derive(Debug, PartialEq, Eq)]
pub enum Said<R> {
    Line(String),
    End(R),
}

/// Runs all jobs, begun in their order; `hear` is told what they say.
pub fn run<J: Sync, R: Send>(
    jobs: &[J],
    at_once: usize,
    work: impl Fn(&J, &dyn Fn(&str)) -> R + Sync,
    mut hear: impl FnMut(Said<R>),
) {
    let next = AtomicUsize::new(0);
    let (sender, receiver) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..at_once.clamp(1, jobs.len().max(1)) {
            let (sender, next, work) = (sender.clone(), &next, &work);
            scope.spawn(move || {
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = jobs.get(place) else { break };
                    let say = |said| sender.send((place, said)).expect("who hears waits for all jobs");
                    let result = work(job, &|line| say(Said::Line(line.to_owned())));
                    say(Said::End(result));
                }
            });
        }
        drop(sender);
        let mut turns = Turns { turn: 0, held: BTreeMap::new() };
        for (place, said) in receiver {
            turns.hear(place, said).into_iter().for_each(&mut hear);
        }
    });
}

/// PURE. Whose turn it is, and what others said meanwhile.
struct Turns<R> {
    turn: usize,
    held: BTreeMap<usize, Vec<Said<R>>>,
}

impl<R> Turns<R> {
    /// Takes what one says; returns what is to be told now.
    fn hear(&mut self, place: usize, said: Said<R>) -> Vec<Said<R>> {
        self.held.entry(place).or_default().push(said);
        let mut told = Vec::new();
        while let Some(said) = self.held.remove(&self.turn) {
            let is_over = matches!(said.last(), Some(Said::End(_)));
            told.extend(said);
            if !is_over {
                break;
            }
            self.turn += 1;
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn line(text: &str) -> Said<bool> {
        Said::Line(text.to_owned())
    }

    #[test]
    fn who_is_first_is_told_at_once_and_others_in_their_turn() {
        let mut turns = Turns { turn: 0, held: BTreeMap::new() };
        assert_eq!(turns.hear(1, line("b1")), []);
        assert_eq!(turns.hear(0, line("a1")), [line("a1")]);
        assert_eq!(turns.hear(1, line("b2")), []);
        assert_eq!(turns.hear(2, Said::End(false)), []);
        let told = turns.hear(0, Said::End(true));
        assert_eq!(told, [Said::End(true), line("b1"), line("b2")]);
        assert_eq!(turns.hear(1, Said::End(true)), [Said::End(true), Said::End(false)]);
    }

    #[test]
    fn jobs_run_at_the_same_time_and_are_told_one_after_the_other() {
        let (both, mut told) = (Barrier::new(2), Vec::new());
        let work = |job: &&str, say: &dyn Fn(&str)| {
            // Neither would pass it alone.
            both.wait();
            say(&format!("{job}1"));
            say(&format!("{job}2"));
            *job == "a"
        };
        run(&["a", "b"], 2, work, |said| told.push(said));
        let [a1, a2, b1, b2] = ["a1", "a2", "b1", "b2"].map(line);
        assert_eq!(told, [a1, a2, Said::End(true), b1, b2, Said::End(false)]);
    }

    #[test]
    fn one_at_a_time_is_one_at_a_time() {
        let (running, mut ends) = (AtomicUsize::new(0), 0);
        let work = |_: &u8, _: &dyn Fn(&str)| {
            let others = running.fetch_add(1, Ordering::SeqCst);
            (0..100).for_each(|_| thread::yield_now());
            running.fetch_sub(1, Ordering::SeqCst);
            others
        };
        run(&[0; 200], 1, work, |said| {
            assert_eq!(said, Said::End(0));
            ends += 1;
        });
        assert_eq!(ends, 200);
        run(&[], 2, work, |_| panic!("nobody runs"));
    }
}
