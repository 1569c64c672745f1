//! Of what is known: whether it is all there is. An agent that asks is told about an address only when it asked, and then
//! all; what it happens to know of other addresses is not enough to decide.

use std::net::{IpAddr, SocketAddr};

use smallvec::SmallVec;

use super::table::Table;
use super::tables::Tables;
use super::{Known, KnownService, Snapshot};
use crate::model::Question;

/// What is to be asked about one address and port: whose address it is, and at a node also whose port.
pub type Questions = SmallVec<[Question; 2]>;

impl Snapshot {
    /// Whether only that is known whole which was asked about.
    pub fn is_partial(&self) -> bool {
        self.asked.is_some()
    }

    /// Addresses and node ports that are known because they were asked about; nothing where everything is known.
    pub fn answered(&self) -> Option<usize> {
        Some(self.asked.as_ref()?.iter().count())
    }

    /// What must be asked before it can be said what is dialled by this address.
    pub fn unasked(&self, dialled: SocketAddr) -> Questions {
        let Some(asked) = &self.asked else { return Questions::new() };
        let questions = self.questions(dialled).into_iter();
        questions.filter(|question| asked.get(question).is_none()).collect()
    }

    /// Whether it must be asked whose address this is.
    pub fn is_unasked(&self, address: IpAddr) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.get(&Question::Address(address)).is_none())
    }

    /// All that what is dialled by an address depends on.
    pub fn questions(&self, dialled: SocketAddr) -> Questions {
        let mut questions = Questions::from_iter([Question::Address(dialled.ip())]);
        if self.node_addresses.get(&dialled.ip()).is_some() {
            questions.push(Question::NodePort(dialled.port()));
        }
        questions
    }

    /// Whether an address is in no range of pods or Services, where such ranges are known, and nobody's who is known.
    pub fn is_outside(&self, address: SocketAddr) -> bool {
        let ip = address.ip();
        !self.inside.is_empty()
            && !self.inside.hold(ip)
            && self.service_at(address) == KnownService::Nobody
            && self.workload_claim(ip) == Known::Nobody
    }
}

impl Tables {
    /// Whether only that is known whole which was asked about.
    pub fn is_partial(&self) -> bool {
        self.state.is_partial()
    }

    /// Whatever is not known is not there.
    pub fn know_everything(&mut self) {
        self.changed |= self.state.asked.take().is_some();
    }

    /// Only what was asked about is known whole.
    pub fn know_what_was_asked(&mut self) {
        self.changed |= self.state.asked.is_none();
        self.state.asked.get_or_insert_with(Table::default);
    }

    /// What was asked is known whole from now on.
    pub fn learn(&mut self, question: Question) {
        let asked = self.state.asked.get_or_insert_with(Table::default);
        if asked.get(&question).is_none() {
            asked.insert(question, ());
            self.changed = true;
        }
    }

    /// It is not asked about any more.
    pub fn forget(&mut self, question: Question) {
        let asked = self.state.asked.as_mut();
        self.changed |= asked.and_then(|asked| asked.remove(&question)).is_some();
    }
}
