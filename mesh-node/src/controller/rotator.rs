//! Drives the change of a root, one step after the other, whenever this replica leads.
//!
//! In: the authority's Secret, and what agents trust. Out: the Secret as the next step has it, and where the change
//! stands, in the log and in the ConfigMap of [`TrustRecord`]. What the next step is, [`Rotation`] says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_common::model::{SpiffeId, Text};
use tracing::{info, warn};

use super::authority_secret::{AuthoritySecret, Found, SecretError};
use super::lease::Leadership;
use super::rotation::{Rotation, Step};
use super::trust_record::{Entry, TrustRecord, name_of};
use super::world::Known;
use crate::identity::{CertificateAuthority as _, HeldAuthority, now};

/// What a rotation is decided on.
pub(super) struct Rotator {
    pub(super) leadership: Leadership,
    pub(super) known: Arc<Known>,
    pub(super) record: TrustRecord,
    /// As whom agents run.
    pub(super) agent: SpiffeId,
    /// The step that was said last.
    pub(super) said: Option<Step>,
}

impl Rotator {
    /// Looks at what was found in the Secret, which `authority` holds already, and takes the next step if it is time.
    pub(super) async fn turn(
        &mut self,
        secret: &AuthoritySecret,
        found: Found,
        authority: &HeldAuthority,
    ) -> Result<(), SecretError> {
        let mut trusting = BTreeSet::new();
        if found.has_next() {
            let Ok(bundle) = authority.bundle() else { return Ok(()) };
            let roots = name_of(&bundle);
            let own = secret.discovery.trusting(&secret.trust_domain);
            let agents = own.iter().map(ToString::to_string).collect();
            self.record.note(&Entry { roots: roots.clone(), agents }).await?;
            trusting = self.record.trusting(&roots).await?;
        }
        // Before all is known, an agent that trusts nothing yet might be one that nobody knows of.
        if !self.leadership.is_held() || self.known.generation().borrow().is_none() {
            return Ok(());
        }
        let rotation = Rotation {
            has_next: found.has_next(),
            signs_since: found.signs_since(),
            lifetime: secret.lifetime,
            agents: &self.agents(),
            trusting: &trusting,
        };
        let now = now(&secret.clock);
        let step = rotation.step(now);
        self.say(&step).await;
        match step {
            Step::Sign => secret.sign_with_next(found, now).await,
            Step::Retire => secret.let_go(found).await,
            Step::Settled | Step::Distribute { .. } | Step::Expire { .. } => Ok(()),
        }
    }

    /// The name of each agent's pod, by its uid.
    fn agents(&self) -> BTreeMap<Text, Text> {
        let snapshot = self.known.snapshot();
        let agents = snapshot.workloads().filter(|pod| pod.identity == self.agent);
        agents.map(|pod| (pod.uid.0.clone(), pod.name.name.clone())).collect()
    }

    async fn say(&mut self, step: &Step) {
        if self.said.is_none() && *step == Step::Settled {
            return;
        }
        let is_same = |said: &Step| match (said, step) {
            // The time that is left is not news.
            (Step::Expire { .. }, Step::Expire { .. }) => true,
            _ => said == step,
        };
        if self.said.as_ref().is_some_and(is_same) {
            return;
        }
        info!(standing = %step, "change of the root");
        if let Err(error) = self.record.say(step.to_string()).await {
            warn!(%error, "where the change of the root stands is not written");
        }
        self.said = Some(step.clone());
    }
}
