use super::*;

use mesh_common::model::{NamespacedName, TrustDomain};

fn pod(name: &str) -> Arc<Workload> {
    let trust_domain = TrustDomain::parse("cluster.local").unwrap();
    let identity = SpiffeId::new(&trust_domain, "shop", name).unwrap();
    Arc::new(Workload::new(NamespacedName::new("shop", name), "a", identity))
}

fn between<'a>(source: &'a Arc<Workload>, destination: &'a Arc<Workload>) -> Parties<'a> {
    Parties {
        reporter: Reporter::Source,
        security: SecurityPolicy::MutualTls,
        source: Some(source),
        source_identity: None,
        destination: Some(destination),
        service: None,
    }
}

fn rendered(metrics: &TrafficMetrics) -> String {
    let mut text = String::new();
    metrics.render(&mut text);
    text
}

/// The value of the only line that has all these parts.
fn value(metrics: &TrafficMetrics, parts: &[&str]) -> Option<f64> {
    let text = rendered(metrics);
    let found: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#') && parts.iter().all(|part| line.contains(part)))
        .collect();
    assert!(found.len() < 2, "{parts:?} is in {found:#?}");
    found.first().map(|line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

const OK: RequestOutcome = RequestOutcome {
    protocol: RequestProtocol::Http,
    code: 200,
    grpc_status: None,
    flags: ResponseFlags::None,
};

#[test]
fn a_connection_counts_its_start_its_bytes_and_its_end() {
    let metrics = TrafficMetrics::new(1, 100);
    let (web, api) = (pod("web"), pod("api"));
    let connection = metrics.core(0).connection_opened(&between(&web, &api));
    connection.carried_to_destination(10);
    connection.carried_to_source(700);
    assert_eq!(value(&metrics, &["istio_tcp_connections_opened_total{"]), Some(1.0));
    assert_eq!(value(&metrics, &["istio_tcp_connections_closed_total{"]), None);
    drop(connection);
    assert_eq!(value(&metrics, &["istio_tcp_connections_closed_total{"]), Some(1.0));
    assert_eq!(value(&metrics, &["istio_tcp_received_bytes_total{"]), Some(10.0));
    assert_eq!(value(&metrics, &["istio_tcp_sent_bytes_total{"]), Some(700.0));
}

#[test]
fn labels_are_istios() {
    let metrics = TrafficMetrics::new(1, 100);
    let (web, api) = (pod("web"), pod("api"));
    metrics.core(0).requests(&between(&web, &api)).ended(OK, Duration::from_millis(3));
    let line = "istio_requests_total{reporter=\"source\",source_workload=\"web\",source_workload_namespace=\"shop\",\
                source_canonical_service=\"web\",source_canonical_revision=\"latest\",source_app=\"web\",\
                source_version=\"unknown\",source_principal=\"spiffe://cluster.local/ns/shop/sa/web\",\
                source_cluster=\"Kubernetes\",destination_workload=\"api\",destination_workload_namespace=\"shop\",\
                destination_canonical_service=\"api\",destination_canonical_revision=\"latest\",\
                destination_app=\"api\",destination_version=\"unknown\",\
                destination_principal=\"spiffe://cluster.local/ns/shop/sa/api\",destination_cluster=\"Kubernetes\",\
                destination_service=\"unknown\",destination_service_name=\"unknown\",\
                destination_service_namespace=\"unknown\",request_protocol=\"http\",response_flags=\"-\",\
                response_code=\"200\",grpc_response_status=\"\",connection_security_policy=\"mutual_tls\"} 1\n";
    let text = rendered(&metrics);
    assert!(text.contains(line), "{text}");
}

#[test]
fn messages_have_no_label_that_is_not_known_while_they_pass() {
    let metrics = TrafficMetrics::new(2, 100);
    let (web, api) = (pod("web"), pod("api"));
    for core in [metrics.core(0), metrics.core(1)] {
        let requests = core.requests(&between(&web, &api));
        requests.messages([2, 0]);
        requests.messages([1, 5]);
    }
    let labels = "destination_service_namespace=\"unknown\",request_protocol=\"grpc\",\
                  connection_security_policy=\"mutual_tls\"} ";
    assert_eq!(value(&metrics, &["istio_request_messages_total{reporter=\"source\",", labels]), Some(6.0));
    assert_eq!(value(&metrics, &["istio_response_messages_total{reporter=\"source\",", labels]), Some(10.0));
    assert_eq!(value(&metrics, &["istio_requests_total{"]), None, "no call has ended");
}

#[test]
fn messages_take_room_as_other_series_do() {
    let metrics = TrafficMetrics::new(1, 1);
    let core = metrics.core(0);
    let api = pod("api");
    for name in ["a", "b", "c"] {
        core.requests(&between(&pod(name), &api)).messages([1, 1]);
    }
    let other = ["istio_request_messages_total{", "source_workload=\"other\""];
    assert_eq!(value(&metrics, &other), Some(2.0));
    assert_eq!(value(&metrics, &["nodemesh_telemetry_series "]), Some(2.0));
}

#[test]
fn a_scrape_adds_the_cores_up() {
    let metrics = TrafficMetrics::new(2, 100);
    let (web, api) = (pod("web"), pod("api"));
    for core in [metrics.core(0), metrics.core(1)] {
        core.requests(&between(&web, &api)).ended(OK, Duration::from_millis(3));
    }
    assert_eq!(value(&metrics, &["istio_requests_total{"]), Some(2.0));
}

#[test]
fn a_new_record_of_the_same_pod_is_the_same_series() {
    let metrics = TrafficMetrics::new(1, 100);
    let core = metrics.core(0);
    let api = pod("api");
    for web in [pod("web"), pod("web")] {
        drop(core.connection_opened(&between(&web, &api)));
    }
    assert_eq!(value(&metrics, &["istio_tcp_connections_opened_total{"]), Some(2.0));
}

#[test]
fn durations_fall_into_cumulative_buckets() {
    let metrics = TrafficMetrics::new(1, 100);
    let (web, api) = (pod("web"), pod("api"));
    let requests = metrics.core(0).requests(&between(&web, &api));
    for micros in [500, 501, 7_000, 4_000_000_000] {
        requests.ended(OK, Duration::from_micros(micros));
    }
    assert_eq!(value(&metrics, &["_bucket{", "le=\"0.5\""]), Some(1.0));
    assert_eq!(value(&metrics, &["_bucket{", "le=\"1\""]), Some(2.0));
    assert_eq!(value(&metrics, &["_bucket{", "le=\"3600000\""]), Some(3.0));
    assert_eq!(value(&metrics, &["_bucket{", "le=\"+Inf\""]), Some(4.0));
    assert_eq!(value(&metrics, &["milliseconds_sum{"]), Some(4_000_008.001));
    assert_eq!(value(&metrics, &["milliseconds_count{"]), Some(4.0));
}

#[test]
fn a_failure_has_its_flags() {
    let metrics = TrafficMetrics::new(1, 100);
    let (web, api) = (pod("web"), pod("api"));
    let core = metrics.core(0);
    core.connection_failed(&between(&web, &api), ResponseFlags::Denied);
    let mut connection = core.connection_opened(&between(&web, &api));
    connection.ended_with(ResponseFlags::UpstreamFailure);
    drop(connection);
    assert_eq!(value(&metrics, &["connections_failed_total{", "response_flags=\"DENY\""]), Some(1.0));
    assert_eq!(value(&metrics, &["connections_closed_total{", "response_flags=\"UF\""]), Some(1.0));
}

#[test]
fn an_identity_is_shown_only_if_it_was_proved() {
    let metrics = TrafficMetrics::new(1, 100);
    let (web, api) = (pod("web"), pod("api"));
    let parties = Parties { security: SecurityPolicy::None, ..between(&web, &api) };
    drop(metrics.core(0).connection_opened(&parties));
    let principals = ["source_principal=\"unknown\"", "destination_principal=\"unknown\""];
    assert_eq!(value(&metrics, &["opened_total{", principals[0], principals[1]]), Some(1.0));
}

#[test]
fn what_finds_no_room_is_counted_under_other() {
    let metrics = TrafficMetrics::new(1, 2);
    let core = metrics.core(0);
    let api = pod("api");
    for number in 0..5 {
        drop(core.connection_opened(&between(&pod(&format!("web-{number}")), &api)));
    }
    assert_eq!(value(&metrics, &["opened_total{", "source_workload=\"other\""]), Some(3.0));
    assert_eq!(value(&metrics, &["nodemesh_telemetry_series_overflowed_total "]), Some(3.0));
}

#[test]
fn an_idle_series_makes_room_and_its_count_goes_to_other() {
    let mut table = Table::<{ cells::CONNECTION }>::new(1);
    let outcome = RequestOutcome { protocol: RequestProtocol::Tcp, ..OK };
    let series = |name: &str| Series { names: Names::of(&between(&pod(name), &pod("api"))), outcome };
    let (cells, _) = table.cells(&series("web"), 0, true);
    cells.add(cells::OPENED, 1);
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);
    assert_eq!(table.make_room(&series("b"), 1, 1, after(0)), 0);
    assert_eq!(table.make_room(&series("b"), 1, 1, after(700)), 0, "the connection is open");
    cells.add(cells::CLOSED, 1);
    assert_eq!(table.make_room(&series("b"), 1, 1, after(800)), 0, "it has just changed");
    assert_eq!(table.make_room(&series("b"), 1, 1, after(1_500)), 1);
    assert!(cells.is_retired());
    // A core that had found the cells before counts once more: nothing is lost, nothing counted twice.
    cells.add(cells::OPENED, 1);
    for _ in 0..2 {
        let sums = table.sums();
        assert_eq!(sums.len(), 1);
        assert_eq!(&*sums[0].0.names.source.workload, "other");
        assert_eq!(sums[0].1[cells::OPENED], 2);
    }
}
