//! What many resources say, kept once: names of namespaces, nodes and applications, identities, uids of pods.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use mesh_common::model::identity::SpiffeIdError;
use mesh_common::model::workload::{CanonicalNames, PodDetails};
use mesh_common::model::{SpiffeId, Text};

/// Below this nothing is worth looking for that nobody uses any more.
const FEW: usize = 4096;

/// What was read before.
#[derive(Debug, Default)]
pub struct Shared {
    texts: HashSet<Text>,
    /// By how they are written.
    identities: HashMap<Box<str>, SpiffeId>,
    names: HashSet<Arc<CanonicalNames>>,
    /// What is told of the pods of other nodes.
    no_details: Arc<PodDetails>,
    /// How many texts were in use at the last look.
    used: usize,
}

impl Shared {
    /// The text, as it was read before if it was.
    pub fn text(&mut self, text: &str) -> Text {
        if let Some(known) = self.texts.get(text) {
            return Arc::clone(known);
        }
        if self.texts.len() >= FEW.max(2 * self.used) {
            self.forget();
        }
        let new: Text = text.into();
        self.texts.insert(Arc::clone(&new));
        new
    }

    /// The identity, as it was read before if it was.
    ///
    /// # Errors
    /// The text is none.
    pub fn identity(&mut self, text: &str) -> Result<SpiffeId, SpiffeIdError> {
        if let Some(known) = self.identities.get(text) {
            return Ok(known.clone());
        }
        let new: SpiffeId = text.parse()?;
        self.identities.insert(text.into(), new.clone());
        Ok(new)
    }

    /// The names, as they were read before if they were.
    pub fn names(&mut self, names: CanonicalNames) -> Arc<CanonicalNames> {
        if let Some(known) = self.names.get(&names) {
            return Arc::clone(known);
        }
        let new = Arc::new(names);
        self.names.insert(Arc::clone(&new));
        new
    }

    /// The details, which take nothing if there are none.
    pub fn details(&self, details: PodDetails) -> Arc<PodDetails> {
        if details == *self.no_details { Arc::clone(&self.no_details) } else { Arc::new(details) }
    }

    /// Forgets what nobody uses any more. Identities do not tell: those that are used are read again with their next pod.
    fn forget(&mut self) {
        self.names.retain(|names| Arc::strong_count(names) > 1);
        self.texts.retain(|text| Arc::strong_count(text) > 1);
        self.used = self.texts.len();
        self.identities.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_twice_is_kept_once() {
        let mut shared = Shared::default();
        let [one, other] = [shared.text("shop"), shared.text("shop")];
        assert!(Arc::ptr_eq(&one, &other));
        let web = "spiffe://cluster.local/ns/shop/sa/web";
        let [one, other] = [shared.identity(web).unwrap(), shared.identity(web).unwrap()];
        assert!(Arc::ptr_eq(one.principal(), other.principal()));
        assert!(shared.identity("nobody").is_err());
    }

    #[test]
    fn what_nobody_uses_any_more_does_not_stay_for_ever() {
        let mut shared = Shared::default();
        let kept = shared.text("kept");
        for number in 0..10 * FEW {
            shared.text(&number.to_string());
        }
        assert!(shared.texts.len() <= FEW, "{} texts", shared.texts.len());
        assert!(Arc::ptr_eq(&kept, &shared.text("kept")));
    }
}
