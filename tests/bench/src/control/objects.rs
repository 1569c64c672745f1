//! A cluster of any size, as objects of Kubernetes: nodes with their agents and pods, Services with their endpoints.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

/// Namespace of the mesh itself.
pub const SYSTEM: &str = "nodemesh-system";
/// Service account of the agents.
pub const AGENT: &str = "nodemesh-agent";
/// The Service whose endpoint changes, and its slice; in [`namespace`] 0.
pub const CHANGING: &str = "changing";
/// The hash in the names of ReplicaSets.
const TEMPLATE: &str = "7c9f8d6b5";
/// Pods that a namespace has.
const PODS_OF_NAMESPACE: usize = 1000;

/// How large it is.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub nodes: usize,
    pub services: usize,
    /// Each is a pod.
    pub endpoints: usize,
}

/// An object and where the store has it.
#[derive(Clone, Debug)]
pub struct Stored {
    pub key: String,
    pub value: Value,
}

impl Size {
    /// Everything, node by node, then Service by Service.
    pub fn objects(self) -> impl Iterator<Item = Stored> {
        let namespaces = (0..=self.endpoints / PODS_OF_NAMESPACE).map(namespace_object);
        let nodes = (0..self.nodes).flat_map(|node| [node_object(node), agent_object(node)]);
        let pods = (0..self.endpoints).map(move |pod| pod_object(pod, self));
        let services = (0..self.services).flat_map(move |service| {
            let pods = self.pods_of(service);
            let (namespace, name) = (self.namespace_of(service), format!("service-{service}"));
            [service_object(&namespace, &name, service), slice_object(&namespace, &name, pods, self)]
        });
        let changing = [
            service_object(&namespace(0), CHANGING, self.services),
            slice_object(&namespace(0), CHANGING, 0..1, self),
        ];
        namespaces.chain(nodes).chain(pods).chain(services).chain(changing)
    }

    /// Pods in all, with those of the agents.
    pub fn pods(self) -> usize {
        self.endpoints + self.nodes
    }

    fn pods_of(self, service: usize) -> std::ops::Range<usize> {
        service * self.endpoints / self.services..(service + 1) * self.endpoints / self.services
    }

    /// That of its first pod.
    fn namespace_of(self, service: usize) -> String {
        namespace(self.pods_of(service).start / PODS_OF_NAMESPACE)
    }

    fn node_of(self, pod: usize) -> usize {
        // Neighbours of one Service are on different nodes.
        pod % self.nodes
    }
}

pub fn namespace(number: usize) -> String {
    format!("team-{number}")
}

pub fn node(number: usize) -> String {
    format!("node-{number}")
}

pub fn agent(number: usize) -> String {
    format!("agent-{number}")
}

/// The changing slice's endpoint, ready or not.
pub fn changing_endpoints(size: Size, is_ready: bool) -> Value {
    json!([endpoint(0, &namespace(0), size, is_ready)])
}

/// The address of a Service.
pub fn cluster_ip(service: usize) -> Ipv4Addr {
    address(11, service)
}

/// The uid of the agent's pod of a node.
pub fn agent_uid(number: usize) -> String {
    uid(0xa, number)
}

fn uid(kind: u8, number: usize) -> String {
    format!("{kind:08x}-0000-4000-8000-{number:012x}")
}

fn address(block: u8, number: usize) -> Ipv4Addr {
    let number = u32::try_from(number).expect("fewer than all addresses");
    Ipv4Addr::from(u32::from(Ipv4Addr::new(block, 0, 0, 1)) + number)
}

fn metadata(namespace: Option<&str>, name: &str, uid: &str) -> Value {
    let created = "2026-01-01T00:00:00Z";
    json!({"name": name, "namespace": namespace, "uid": uid, "creationTimestamp": created, "generation": 1})
}

fn namespace_object(number: usize) -> Stored {
    let name = namespace(number);
    let mut metadata = metadata(None, &name, &uid(1, number));
    metadata["labels"] = json!({"nodemesh.dev/mode": "enabled"});
    let value = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata,
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}});
    Stored { key: format!("namespaces/{name}"), value }
}

fn node_object(number: usize) -> Stored {
    let name = node(number);
    let mut metadata = metadata(None, &name, &uid(2, number));
    metadata["labels"] = json!({"topology.kubernetes.io/zone": format!("zone-{}", number % 3)});
    let addresses = json!([{"type": "InternalIP", "address": address(172, number)}]);
    let value = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": {},
        "status": {"addresses": addresses}});
    Stored { key: format!("minions/{name}"), value }
}

fn agent_object(number: usize) -> Stored {
    let metadata = metadata(Some(SYSTEM), &agent(number), &agent_uid(number));
    let address = address(172, number);
    let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": pod_spec(&node(number), AGENT, true), "status": running(address)});
    Stored { key: format!("pods/{SYSTEM}/{}", agent(number)), value }
}

fn pod_object(number: usize, size: Size) -> Stored {
    let (namespace, name) = (namespace(number / PODS_OF_NAMESPACE), format!("pod-{number}"));
    let mut metadata = metadata(Some(&namespace), &name, &uid(3, number));
    let app = format!("app-{}", number % PODS_OF_NAMESPACE / 10);
    metadata["labels"] = json!({"app": app, "version": "v1", "pod-template-hash": TEMPLATE});
    // As a Deployment's are.
    let set = format!("{app}-{TEMPLATE}");
    metadata["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": set,
        "uid": uid(6, number / 10), "controller": true}]);
    let spec = pod_spec(&node(size.node_of(number)), &app, false);
    let value = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec,
        "status": running(address(10, number))});
    Stored { key: format!("pods/{namespace}/{name}"), value }
}

fn pod_spec(node: &str, account: &str, host_network: bool) -> Value {
    json!({"nodeName": node, "serviceAccountName": account, "hostNetwork": host_network,
        "containers": [{"name": "app", "image": "app", "ports": [{"containerPort": 8080}]}]})
}

fn running(address: Ipv4Addr) -> Value {
    json!({"phase": "Running", "podIP": address, "podIPs": [{"ip": address}],
        "conditions": [{"type": "Ready", "status": "True"}]})
}

fn service_object(namespace: &str, name: &str, number: usize) -> Stored {
    let cluster_ip = cluster_ip(number);
    let metadata = metadata(Some(namespace), name, &uid(4, number));
    let port = json!({"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"});
    let value = json!({"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {
        "type": "ClusterIP", "clusterIP": cluster_ip, "clusterIPs": [cluster_ip], "ports": [port],
        "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "selector": {"app": name},
        "sessionAffinity": "None", "internalTrafficPolicy": "Cluster"}});
    Stored { key: format!("services/specs/{namespace}/{name}"), value }
}

fn slice_object(namespace: &str, service: &str, pods: std::ops::Range<usize>, size: Size) -> Stored {
    let mut metadata = metadata(Some(namespace), service, &uid(5, pods.start));
    metadata["labels"] = json!({"kubernetes.io/service-name": service});
    let endpoints: Vec<Value> = pods.map(|pod| endpoint(pod, namespace, size, true)).collect();
    let value = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": metadata,
        "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": endpoints});
    Stored { key: format!("endpointslices/{namespace}/{service}"), value }
}

fn endpoint(pod: usize, namespace: &str, size: Size, is_ready: bool) -> Value {
    let number = size.node_of(pod);
    json!({"addresses": [address(10, pod)], "nodeName": node(number), "zone": format!("zone-{}", number % 3),
        "conditions": {"ready": is_ready, "serving": is_ready, "terminating": false},
        "targetRef": {"kind": "Pod", "namespace": namespace, "name": format!("pod-{pod}"), "uid": uid(3, pod)}})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_endpoint_is_a_pod_of_the_slices_own_namespace() {
        let size = Size { nodes: 10, services: 100, endpoints: 2000 };
        let objects: Vec<Stored> = size.objects().collect();
        let has = |key: &str| objects.iter().any(|object| object.key == key);
        for slice in objects.iter().filter(|object| object.key.starts_with("endpointslices/")) {
            for endpoint in slice.value["endpoints"].as_array().unwrap() {
                let [namespace, name] = ["namespace", "name"].map(|field| &endpoint["targetRef"][field]);
                assert_eq!(namespace, &slice.value["metadata"]["namespace"]);
                assert!(has(&format!("pods/{}/{}", namespace.as_str().unwrap(), name.as_str().unwrap())));
            }
        }
        let pods = objects.iter().filter(|object| object.key.starts_with("pods/")).count();
        assert_eq!(pods, size.pods());
    }
}
