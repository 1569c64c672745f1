//! The control plane of a large cluster: one controller beside a real API server, the streams of many agents, and one whole
//! agent. What is measured is what they need, and how soon agents hear of a change.

mod figures;
mod fleet;
mod objects;
mod stand;
mod store;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::json;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use self::figures::{Figures, milliseconds, quantile};
use self::fleet::{Event, Fleet, Seen};
use self::objects::{CHANGING, Size};
use self::stand::{Controller, Stand};
use crate::machine::{peak_megabytes, process_seconds, resident_megabytes};

/// For all agents to have been told all.
const PATIENCE: Duration = Duration::from_secs(1800);
/// For all of them to have heard of one change.
const CHANGE: Duration = Duration::from_secs(60);

/// Services that the pods of one node call.
const CALLED: usize = 50;

/// How large the cluster is.
#[derive(Args, Clone, Debug)]
pub struct ControlArgs {
    /// Agents that are connected, one of each node
    #[arg(long, default_value_t = 1000, value_parser = at_least_one)]
    agents: usize,
    /// Services
    #[arg(long, default_value_t = 10_000, value_parser = at_least_one)]
    services: usize,
    /// Endpoints of all of them together; each is a pod
    #[arg(long, default_value_t = 100_000, value_parser = at_least_one)]
    endpoints: usize,
    /// Changes of an endpoint that are measured, one after the other
    #[arg(long, default_value_t = 50, value_parser = at_least_one)]
    changes: usize,
    /// File for the figures as JSON
    #[arg(long)]
    json: Option<PathBuf>,
}

fn at_least_one(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a number above 0 is needed".to_owned()),
        Ok(number) => Ok(number),
    }
}

/// Measures everything, and prints it.
///
/// # Errors
/// Something of it does not work. A goal that is missed is no error: the last line names it.
pub async fn run(args: ControlArgs) -> Result<()> {
    // One node more: that of the whole agent.
    let size = Size { nodes: args.agents + 1, services: args.services, endpoints: args.endpoints };
    println!("control: {} nodes, {} Services, {} endpoints", size.nodes, size.services, size.endpoints);
    let stand = Stand::start(size).await?;
    let mut bench = Bench { stand, size, figures: Figures::default(), is_ready: true };
    let measured = bench.measure(&args).await;
    print!("\n{}", bench.figures.table());
    if let Some(path) = &args.json {
        let world = json!({"agents": args.agents, "services": args.services, "endpoints": args.endpoints});
        let text = format!("{:#}\n", json!({"world": world, "figures": bench.figures.json()}));
        std::fs::write(path, text).with_context(|| format!("write {}", path.display()))?;
    }
    measured
}

struct Bench {
    stand: Stand,
    size: Size,
    figures: Figures,
    /// The endpoint that changes.
    is_ready: bool,
}

/// Agents that are connected, and what they see.
struct Connected {
    fleet: Arc<Fleet>,
    events: mpsc::UnboundedReceiver<Event>,
    tokens: Vec<Arc<str>>,
    /// Ends them all.
    _over: watch::Sender<()>,
}

impl Bench {
    async fn measure(&mut self, args: &ControlArgs) -> Result<()> {
        let alone = self.stand.lists().await?.as_secs_f64();
        self.figures.add("API server: all lists, to who reads and drops them", "s", alone, None);
        let (agents, mut controller) = (args.agents, self.stand.controller()?);
        let mut connected = self.begin(&mut controller, agents).await?;
        self.changes("one agent", 1, args.changes, &mut connected, None).await?;
        self.fill(agents, &controller, &mut connected).await?;
        self.changes(&format!("{agents} agents"), agents, args.changes, &mut connected, Some(100.0)).await?;
        self.whole_agent(agents, &controller).await?;
        self.asking_agent(agents, &controller).await?;
        let peak = peak_megabytes(controller.id())?;
        self.figures.add("controller: memory at its peak", "MB", peak, Some(1500.0));
        Ok(())
    }

    /// From the controller's start until the first agent was told all.
    async fn begin(&mut self, controller: &mut Controller, agents: usize) -> Result<Connected> {
        let start = Instant::now();
        let took = controller.knows(self.size.pods()).await?;
        self.figures.add("controller: from its start until all is read", "s", took.as_secs_f64(), None);
        let mut connected = self.connect(1, controller).await?;
        connected.begin(0..1);
        connected.told(start, 1).await?;
        let took = start.elapsed().as_secs_f64();
        self.figures.add("controller: from its start until an agent was told all", "s", took, Some(10.0));
        self.figures.add("  CPU of the controller for it", "s", process_seconds(controller.id())?, None);
        self.figures.add(
            "controller: memory with one agent",
            "MB",
            resident_megabytes(controller.id())?,
            None,
        );
        connected.add_tokens(&self.stand, agents).await?;
        Ok(connected)
    }

    async fn connect(&self, agents: usize, controller: &Controller) -> Result<Connected> {
        let (tell, events) = mpsc::unbounded_channel();
        let (over, is_over) = watch::channel(());
        let changing = format!("{}/{CHANGING}", objects::namespace(0));
        let (address, trust) = (controller.address, self.stand.trust()?);
        let fleet = Arc::new(Fleet {
            address,
            trust,
            changing,
            events: tell,
            begun_again: AtomicUsize::new(0),
            over: is_over,
        });
        let mut connected = Connected { fleet, events, tokens: Vec::new(), _over: over };
        connected.add_tokens(&self.stand, agents).await?;
        Ok(connected)
    }

    /// The rest of the agents, all at once.
    async fn fill(
        &mut self,
        agents: usize,
        controller: &Controller,
        connected: &mut Connected,
    ) -> Result<()> {
        let cpu = process_seconds(controller.id())?;
        let begun = connected.begin(1..agents);
        let took = connected.told(begun, agents - 1).await?;
        if let Some(last) = took.last() {
            let name = format!("{} more at once: from nothing until the last was told all", agents - 1);
            self.figures.add(name, "s", last.as_secs_f64(), None);
            let cpu = process_seconds(controller.id())? - cpu;
            self.figures.add("  CPU of the controller for it", "s", cpu, None);
            let again = connected.fleet.begun_again.load(Ordering::Relaxed) as f64;
            self.figures.add("  streams that had to be begun again", "", again, None);
        }
        let memory = resident_megabytes(controller.id())?;
        let name = format!("controller: memory with {agents} agents");
        self.figures.add(name, "MB", memory, Some(1500.0));
        Ok(())
    }

    /// From before the API server is asked until each agent has been told.
    async fn changes(
        &mut self,
        whom: &str,
        agents: usize,
        changes: usize,
        connected: &mut Connected,
        below: Option<f64>,
    ) -> Result<()> {
        let mut took = Vec::with_capacity(agents * changes);
        for _ in 0..changes {
            self.is_ready = !self.is_ready;
            let begun = Instant::now();
            self.stand.change(self.is_ready).await?;
            let wait = connected.wait(Seen::Change, agents, begun);
            took.extend(timeout(CHANGE, wait).await.context("wait until all agents hear of a change")??);
        }
        took.sort();
        for (name, part) in [("p50", 0.5), ("p99", 0.99), ("the slowest", 1.0)] {
            let below = below.filter(|_| part < 1.0);
            let value = milliseconds(quantile(&took, part));
            self.figures.add(format!("a change of an endpoint, to {whom}: {name}"), "ms", value, below);
        }
        Ok(())
    }

    /// A real agent of a node of its own.
    async fn whole_agent(&mut self, node: usize, controller: &Controller) -> Result<()> {
        let begun = Instant::now();
        let mut agent = self.stand.agent(node, controller, None).await?;
        agent.is_current().await?;
        let name = "agent: from its start, without state, until all is in force";
        self.figures.add(name, "s", begun.elapsed().as_secs_f64(), Some(10.0));
        agent.is_written()?;
        let id = agent.id();
        self.figures.add("agent: memory", "MB", resident_megabytes(id)?, Some(150.0));
        self.figures.add("agent: memory at its peak", "MB", peak_megabytes(id)?, None);
        drop(agent);

        let begun = Instant::now();
        let mut agent = self.stand.agent(node, controller, None).await?;
        agent.is_current().await?;
        let name = "agent: the same with the state of the one before";
        self.figures.add(name, "s", begun.elapsed().as_secs_f64(), Some(10.0));
        Ok(())
    }
}

impl Bench {
    /// The same agent, if it asks and its pods have called some Services.
    async fn asking_agent(&mut self, node: usize, controller: &Controller) -> Result<()> {
        let called = CALLED.min(self.size.services);
        let dialled = (0..called).map(|number| objects::cluster_ip(number * self.size.services / called));
        let mut agent = self.stand.agent(node, controller, Some(dialled.collect())).await?;
        agent.is_current().await?;
        agent.is_written()?;
        let name = format!("agent that asks, {called} Services called: memory");
        self.figures.add(name, "MB", resident_megabytes(agent.id())?, None);
        Ok(())
    }
}

impl Connected {
    /// Has the tokens of so many agents.
    async fn add_tokens(&mut self, stand: &Stand, agents: usize) -> Result<()> {
        for agent in self.tokens.len()..agents {
            self.tokens.push(stand.token(agent).await?.into());
        }
        Ok(())
    }

    /// Begins these agents.
    fn begin(&self, agents: std::ops::Range<usize>) -> Instant {
        let begun = Instant::now();
        for agent in agents {
            tokio::spawn(self.fleet.clone().follow(agent, self.tokens[agent].clone()));
        }
        begun
    }

    /// Waits until so many were told all there is; how long each took, in order.
    async fn told(&mut self, begun: Instant, agents: usize) -> Result<Vec<Duration>> {
        let wait = async {
            let mut took = Vec::with_capacity(agents);
            while took.len() < agents {
                match self.next().await? {
                    Event { seen: Seen::Whole(_), at } => took.push(at - begun),
                    Event { seen: Seen::Change | Seen::End, .. } => {}
                }
            }
            Ok(took)
        };
        timeout(PATIENCE, wait).await.context("wait until all agents are told all")?
    }

    async fn wait(&mut self, wanted: Seen, agents: usize, begun: Instant) -> Result<Vec<Duration>> {
        let mut took = Vec::with_capacity(agents);
        while took.len() < agents {
            let Event { at, seen } = self.next().await?;
            if seen == wanted {
                took.push(at - begun);
            }
        }
        Ok(took)
    }

    async fn next(&mut self) -> Result<Event> {
        match self.events.recv().await {
            Some(Event { seen: Seen::End, .. }) | None => bail!("the stream of an agent ended"),
            Some(event) => Ok(event),
        }
    }
}
