//! Families whose numbers are kept elsewhere and read at each scrape: nothing is copied in between.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

/// One family. Register it as any other collector.
pub struct Readout {
    desc: Desc,
    kind: MetricType,
    read: Box<dyn Fn() -> Vec<Sample> + Send + Sync>,
}

/// One number, and the value of the family's label if it has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// From a closed set.
    pub label: Option<&'static str>,
    /// The number.
    pub value: u64,
}

impl Readout {
    /// A counter with one label; its name ends in `_total`.
    ///
    /// # Errors
    /// If name or label cannot be written as Prometheus text.
    pub fn counter(
        name: &str,
        help: &str,
        label: &str,
        read: impl Fn() -> Vec<Sample> + Send + Sync + 'static,
    ) -> Result<Self, prometheus::Error> {
        let desc = Desc::new(name.to_owned(), help.to_owned(), vec![label.to_owned()], Default::default())?;
        Ok(Self { desc, kind: MetricType::COUNTER, read: Box::new(read) })
    }

    /// A gauge without labels.
    ///
    /// # Errors
    /// If the name cannot be written as Prometheus text.
    pub fn gauge(
        name: &str,
        help: &str,
        read: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Result<Self, prometheus::Error> {
        let desc = Desc::new(name.to_owned(), help.to_owned(), Vec::new(), Default::default())?;
        let read = move || vec![Sample { label: None, value: read() }];
        Ok(Self { desc, kind: MetricType::GAUGE, read: Box::new(read) })
    }

    fn metric(&self, sample: Sample) -> Metric {
        let mut metric = Metric::default();
        if let Some((name, value)) = self.desc.variable_labels.first().zip(sample.label) {
            let mut pair = LabelPair::default();
            pair.set_name(name.clone());
            pair.set_value(value.to_owned());
            metric.set_label(vec![pair]);
        }
        let value = sample.value as f64;
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        metric
    }
}

impl Collector for Readout {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut family = MetricFamily::default();
        family.set_name(self.desc.fq_name.clone());
        family.set_help(self.desc.help.clone());
        family.set_field_type(self.kind);
        family.set_metric((self.read)().into_iter().map(|sample| self.metric(sample)).collect());
        vec![family]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::registry::Registry;

    #[test]
    fn numbers_are_read_when_they_are_asked_for() {
        let registry = Registry::new();
        let read = || vec![Sample { label: Some("captured"), value: 3 }];
        let counter =
            Readout::counter("nodemesh_kernel_verdicts_total", "What is counted.", "reason", read).unwrap();
        registry.register(Box::new(counter)).unwrap();
        let gauge = Readout::gauge("nodemesh_transport_tunnels", "Tunnels now.", || 4).unwrap();
        registry.register(Box::new(gauge)).unwrap();
        let text = registry.render().unwrap();
        assert!(text.contains("# TYPE nodemesh_kernel_verdicts_total counter\n"), "{text}");
        assert!(text.contains("nodemesh_kernel_verdicts_total{reason=\"captured\"} 3\n"), "{text}");
        assert!(text.contains("# TYPE nodemesh_transport_tunnels gauge\n"), "{text}");
        assert!(text.contains("nodemesh_transport_tunnels 4\n"), "{text}");
    }

    #[test]
    fn a_family_without_numbers_is_described_all_the_same() {
        let registry = Registry::new();
        let counter = Readout::counter("nodemesh_kernel_verdicts_total", "Counted.", "reason", Vec::new);
        registry.register(Box::new(counter.unwrap())).unwrap();
        assert_eq!(registry.descriptions()[0].kind, "counter");
        assert_eq!(registry.descriptions()[0].labels, ["reason"]);
        assert!(!registry.render().unwrap().contains("verdicts"), "no family without a number");
    }
}
