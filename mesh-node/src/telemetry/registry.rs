//! The daemon's own metrics: one registry, which refuses names and labels that break the house's rule.
//!
//! The rule: `nodemesh_<module>_<what>_<unit>[_total]`, base units, `_total` for counters and for nothing else,
//! labels from closed sets, a help that says what is counted.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::proto::MetricType;
use prometheus::{Error, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, TextEncoder};

/// The modules that count, as the second word of every name.
const MODULES: &[&str] = &[
    "agent",
    "kernel",
    "xds",
    "control",
    "controller",
    "capture",
    "identity",
    "resolve",
    "policy",
    "route",
    "transport",
    "proxy",
    "telemetry",
    "admin",
];

/// Units that are not base units (Prometheus naming practice: seconds, bytes, ratios).
const DERIVED_UNITS: &[&str] =
    &["ms", "milliseconds", "us", "microseconds", "ns", "nanoseconds", "minutes", "hours", "kb", "kilobytes"];

/// Labels whose values have no bound.
const OPEN_LABELS: &[&str] =
    &["addr", "address", "ip", "path", "pod", "uid", "error", "file", "port", "method", "host", "url"];

/// Where every module registers what it counts. A clone is the same registry.
#[derive(Clone, Debug, Default)]
pub struct Registry {
    metrics: prometheus::Registry,
    /// What is registered, for `docs/metrics.md`.
    described: Arc<Mutex<Vec<Description>>>,
}

/// One metric, as documented.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// What is counted, and when.
    pub help: String,
}

impl Registry {
    /// Makes an empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers what a module counts.
    ///
    /// # Errors
    /// If the name is taken, or breaks the rule.
    pub fn register(&self, collector: Box<dyn Collector>) -> Result<(), Error> {
        let described = describe(collector.as_ref());
        for description in &described {
            check(description)?;
        }
        self.metrics.register(collector)?;
        self.described.lock().unwrap_or_else(PoisonError::into_inner).extend(described);
        Ok(())
    }

    /// Makes a counter and registers it.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn counter(&self, name: &str, help: &str) -> Result<IntCounter, Error> {
        self.registered(IntCounter::new(name, help)?)
    }

    /// Makes counters, one for each value of a label, and registers them.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn counters(&self, name: &str, label: &str, help: &str) -> Result<IntCounterVec, Error> {
        self.registered(IntCounterVec::new(Opts::new(name, help), &[label])?)
    }

    /// Makes a gauge and registers it.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, Error> {
        self.registered(IntGauge::new(name, help)?)
    }

    /// Makes gauges, one for each value of a label, and registers them.
    ///
    /// # Errors
    /// As [`Self::register`].
    pub fn gauges(&self, name: &str, label: &str, help: &str) -> Result<IntGaugeVec, Error> {
        self.registered(IntGaugeVec::new(Opts::new(name, help), &[label])?)
    }

    fn registered<C: Collector + Clone + 'static>(&self, collector: C) -> Result<C, Error> {
        self.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    /// Returns every metric in Prometheus' text format (version 0.0.4).
    ///
    /// # Errors
    /// If a collector gives what cannot be written as text.
    pub fn render(&self) -> Result<String, Error> {
        TextEncoder::new().encode_to_string(&self.metrics.gather())
    }

    /// Returns what is registered, by name.
    pub fn descriptions(&self) -> Vec<Description> {
        let mut described = self.described.lock().unwrap_or_else(PoisonError::into_inner).clone();
        described.sort();
        described
    }
}

fn describe(collector: &dyn Collector) -> Vec<Description> {
    let families = collector.collect();
    let kind_of = |name: &str| {
        let family = families.iter().find(|family| family.name() == name);
        match family.map(prometheus::proto::MetricFamily::get_field_type) {
            Some(MetricType::COUNTER) => "counter",
            Some(MetricType::HISTOGRAM) => "histogram",
            _ => "gauge",
        }
    };
    let describe = |desc: &&prometheus::core::Desc| Description {
        name: desc.fq_name.clone(),
        kind: kind_of(&desc.fq_name),
        labels: desc.variable_labels.clone(),
        help: desc.help.clone(),
    };
    collector.desc().iter().map(describe).collect()
}

fn check(metric: &Description) -> Result<(), Error> {
    let words: Vec<&str> = metric.name.split('_').collect();
    let unit = words.iter().rev().find(|word| **word != "total").copied().unwrap_or_default();
    let complaint = if words.first() != Some(&"nodemesh") {
        "does not begin with nodemesh_".to_owned()
    } else if !words.get(1).is_some_and(|module| MODULES.contains(module)) {
        format!("names no module; known are {}", MODULES.join(", "))
    } else if words.len() < 3 {
        "does not say what is counted".to_owned()
    } else if DERIVED_UNITS.contains(&unit) {
        format!("has unit {unit}, which is no base unit")
    } else if (metric.kind == "counter") != metric.name.ends_with("_total") {
        format!("is a {}; counters and nothing else end in _total", metric.kind)
    } else if let Some(label) = metric.labels.iter().find(|label| OPEN_LABELS.contains(&label.as_str())) {
        format!("has label {label}, whose values have no bound")
    } else if !metric.help.ends_with('.') {
        "has a help that is no sentence".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::Msg(format!("metric {} {complaint}", metric.name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, Opts};

    const HELP: &str = "What is counted.";

    #[test]
    fn a_good_name_is_registered_and_rendered() {
        let registry = Registry::new();
        let counter = IntCounter::new("nodemesh_kernel_events_lost_total", HELP).unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        counter.inc();
        assert!(registry.render().unwrap().contains("nodemesh_kernel_events_lost_total 1\n"));
    }

    #[test]
    fn names_that_break_the_rule_are_refused() {
        for name in ["kernel_events_total", "nodemesh_things_total", "nodemesh_kernel_events"] {
            let counter = IntCounter::new(name, HELP).unwrap();
            assert!(Registry::new().register(Box::new(counter)).is_err(), "{name} was registered");
        }
        let gauge = IntGauge::new("nodemesh_kernel_wait_milliseconds", HELP).unwrap();
        assert!(Registry::new().register(Box::new(gauge)).is_err());
    }

    #[test]
    fn labels_without_bound_are_refused() {
        let counter =
            IntCounterVec::new(Opts::new("nodemesh_kernel_drops_total", HELP), &["address"]).unwrap();
        assert!(Registry::new().register(Box::new(counter)).is_err());
    }

    #[test]
    fn a_metric_without_series_is_described_all_the_same() {
        let registry = Registry::new();
        let options = HistogramOpts::new("nodemesh_identity_handshake_duration_seconds", HELP);
        registry.register(Box::new(HistogramVec::new(options, &["result"]).unwrap())).unwrap();
        let described = registry.descriptions();
        assert_eq!(described[0].kind, "histogram");
        assert_eq!(described[0].labels, ["result"]);
    }
}
