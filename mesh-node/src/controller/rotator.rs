//! Drives the change of a root, one step after the other, whenever this replica leads.
//!
//! In: the authority's Secret, and what agents trust. Out: the Secret as the next step has it, and where the change
//! stands, in the log and in the ConfigMap of [`TrustRecord`]. What the next step is, [`Rotation`] says.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use mesh_common::model::{SpiffeId, Text, Workload};
use tracing::{info, warn};

use super::authority_secret::{AuthoritySecret, SecretError};
use super::found::Found;
use super::lease::Leadership;
use super::rotation::{Agent, Rotation, Step, retires_at};
use super::trust_record::{Answers, Entry, Phase, Standing, TrustRecord, Waiting, name_of};
use super::world::Known;
use crate::identity::{CertificateAuthority as _, HeldAuthority, SigningPem, TrustBundle, now};
use crate::telemetry::chain::Chain;

/// Agents that are waited for and named, for programs.
const MAX_NAMED: usize = 100;

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
        let Ok(bundle) = authority.bundle() else { return Ok(()) };
        let is_changing = found.next().is_some() || found.signs_since().is_some();
        let answers = match secret.signs && is_changing {
            true => self.answers(secret, &bundle).await?,
            false => Answers::default(),
        };
        // Before all is known, an agent that trusts nothing yet might be one that nobody knows of.
        if !self.leadership.is_held() || self.known.generation().borrow().is_none() {
            return Ok(());
        }
        let (now, agents) = (now(&secret.clock), self.agents(&answers));
        let rotation = Rotation {
            has_next: found.next().is_some(),
            signs_since: found.signs_since(),
            lifetime: secret.lifetime,
            agents: &agents,
            trusting: &answers.trusting,
        };
        let step = if secret.signs { rotation.step(now) } else { Step::Elsewhere };
        self.tell(secret, &found, &step, agents.len()).await;
        match step {
            Step::Sign => secret.sign_with_next(found, &bundle, now).await,
            Step::Retire => {
                secret.let_go(found).await?;
                Ok(self.record.forget().await?)
            }
            Step::Settled
            | Step::Distribute { .. }
            | Step::Expire { .. }
            | Step::Acknowledge { .. }
            | Step::Elsewhere => Ok(()),
        }
    }

    /// What agents have of these roots; those of this replica are on record first.
    async fn answers(
        &mut self,
        secret: &AuthoritySecret,
        bundle: &TrustBundle,
    ) -> Result<Answers, SecretError> {
        let roots = name_of(bundle);
        let uids = |uids: Vec<Text>| uids.iter().map(ToString::to_string).collect::<BTreeSet<_>>();
        let agents = uids(secret.discovery.trusting(&secret.trust_domain));
        let waiting = uids(secret.discovery.connected()).difference(&agents).cloned().collect();
        self.record.note(&Entry { roots: roots.clone(), agents, waiting }).await?;
        Ok(self.record.read(&roots).await?)
    }

    /// The agents that there are.
    fn agents(&self, answers: &Answers) -> BTreeMap<Text, Agent> {
        let snapshot = self.known.snapshot();
        let pods = snapshot.workloads().filter(|pod| pod.identity == self.agent);
        let agent = |uid: &Text, pod: &Workload| Agent {
            pod: pod.name.name.clone(),
            node: pod.node.clone(),
            is_connected: answers.waiting.contains(uid) || answers.trusting.contains(uid),
        };
        pods.map(|pod| (pod.uid.0.clone(), agent(&pod.uid.0, pod))).collect()
    }

    /// Says where it stands.
    async fn tell(&mut self, secret: &AuthoritySecret, found: &Found, step: &Step, agents: usize) {
        let standing = self.standing(secret, found, step, agents);
        let mut written = self.record.note_standing(&standing).await;
        if self.is_news(step) {
            info!(standing = %step, "change of the root");
            written = written.and(self.record.say(step.to_string()).await);
            self.said = Some(step.clone());
        }
        if let Err(error) = written {
            warn!(error = %Chain(&error), "where the change of the root stands is not written");
        }
    }

    fn is_news(&self, step: &Step) -> bool {
        match (&self.said, step) {
            (None, Step::Settled | Step::Elsewhere) => false,
            // The time that is left is not news.
            (Some(Step::Expire { .. }), Step::Expire { .. }) => false,
            (said, _) => said.as_ref() != Some(step),
        }
    }

    fn standing(&self, secret: &AuthoritySecret, found: &Found, step: &Step, agents: usize) -> Standing {
        let fingerprint = |signing: SigningPem| signing.fingerprint().ok();
        let missing = match step {
            Step::Distribute { missing, .. } | Step::Acknowledge { missing, .. } => &missing[..],
            _ => &[],
        };
        let waiting = missing.iter().take(MAX_NAMED).map(|agent| Waiting {
            pod: agent.pod.to_string(),
            node: agent.node.to_string(),
            connected: agent.is_connected,
        });
        let since = found.signs_since().filter(|_| secret.signs);
        Standing {
            step: phase(step),
            trust_domain: secret.trust_domain.to_string(),
            signs: found.signing().ok().filter(|_| secret.signs).and_then(fingerprint),
            next: found.next().filter(|_| secret.signs).and_then(fingerprint),
            agents,
            missing: missing.len(),
            waiting: waiting.collect(),
            retires_at: since.map(|since| retires_at(since, secret.lifetime)),
            replica: self.record.replica().to_owned(),
        }
    }
}

fn phase(step: &Step) -> Phase {
    match step {
        Step::Settled => Phase::Settled,
        Step::Distribute { .. } => Phase::Distribute,
        Step::Sign => Phase::Sign,
        // Those that are waited for are named in either.
        Step::Expire { .. } | Step::Acknowledge { .. } => Phase::Expire,
        Step::Retire => Phase::Retire,
        Step::Elsewhere => Phase::Elsewhere,
    }
}
