//! Kubernetes objects as YAML, in the folder that the agents watch.
//!
//! In: pods of the topology and what a test wants said. Out: files, each written whole under another name and then
//! renamed, as a careful editor does.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::pod::Pod;

/// The annotation that names a pod's network namespace.
const NETNS: &str = "nodemesh.dev/netns";
/// The label that enrols a pod or a namespace.
const MODE: &str = "nodemesh.dev/mode";

/// What a Pod object says beside its addresses.
#[derive(Clone, Debug)]
pub struct PodSpec {
    name: String,
    namespace: String,
    service_account: String,
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    ports: Vec<(String, u16)>,
    probe: Option<u16>,
    addresses: Option<[IpAddr; 2]>,
    ready: bool,
    terminating: bool,
    uid: String,
    kubelet_cgroup: Option<String>,
}

impl PodSpec {
    /// A ready pod of namespace `shop`, its service account and label `app` named as the pod.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            service_account: name.to_owned(),
            labels: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            annotations: BTreeMap::new(),
            ports: Vec::new(),
            probe: None,
            addresses: None,
            ready: true,
            terminating: false,
            uid: format!("uid-{name}"),
            kubelet_cgroup: None,
        }
    }

    /// Puts it in another namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Gives it another service account.
    #[must_use]
    pub fn service_account(mut self, name: &str) -> Self {
        name.clone_into(&mut self.service_account);
        self
    }

    /// Sets a label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.set_label(key, value);
        self
    }

    /// Sets an annotation.
    #[must_use]
    pub fn annotation(mut self, key: &str, value: &str) -> Self {
        self.annotations.insert(key.to_owned(), value.to_owned());
        self
    }

    /// Declares a container port; the name says its protocol, as in `http` or `tcp-echo`.
    #[must_use]
    pub fn port(mut self, name: &str, port: u16) -> Self {
        self.ports.push((name.to_owned(), port));
        self
    }

    /// Has the kubelet probe a TCP port.
    #[must_use]
    pub fn probe(mut self, port: u16) -> Self {
        self.probe = Some(port);
        self
    }

    /// Gives it fixed addresses, IPv4 and IPv6, as when an address is used again.
    #[must_use]
    pub fn at(mut self, addresses: [IpAddr; 2]) -> Self {
        self.addresses = Some(addresses);
        self
    }

    /// Puts its processes where a kubelet would, below the pods' cgroup. Then no annotation says where it is.
    #[must_use]
    pub fn kubelet_cgroup(mut self, path: &str) -> Self {
        self.kubelet_cgroup = Some(path.to_owned());
        self
    }

    /// Where its processes are below the pods' cgroup, if that is where a kubelet would put them.
    pub(crate) fn place_of_kubelet(&self) -> Option<&str> {
        self.kubelet_cgroup.as_deref()
    }

    /// Sets `metadata.uid`.
    #[must_use]
    pub fn uid(mut self, uid: &str) -> Self {
        uid.clone_into(&mut self.uid);
        self
    }

    /// Enrols or excludes the pod by its own label, whatever its namespace says.
    #[must_use]
    pub fn mode(self, mode: &str) -> Self {
        self.label(MODE, mode)
    }

    /// Sets a label of a pod that exists; it counts when the object is written again.
    pub fn set_label(&mut self, key: &str, value: &str) {
        self.labels.insert(key.to_owned(), value.to_owned());
    }

    /// Sets the Ready condition of a pod that exists.
    pub fn set_ready(&mut self, ready: bool) {
        self.ready = ready;
    }

    /// Marks a pod that exists as being deleted.
    pub fn set_terminating(&mut self, terminating: bool) {
        self.terminating = terminating;
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `metadata.namespace`.
    pub fn namespace_name(&self) -> &str {
        &self.namespace
    }

    /// The identity that its certificate states, in trust domain `cluster.local`.
    pub fn spiffe_id(&self) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{}", self.namespace, self.service_account)
    }

    /// Whether its own label leaves it in the mesh.
    pub(crate) fn is_enrolled(&self) -> bool {
        self.labels.get(MODE).is_none_or(|mode| mode != "disabled")
    }

    pub(crate) fn addresses(&self) -> Option<[IpAddr; 2]> {
        self.addresses
    }
}

/// What a Service object says.
#[derive(Clone, Debug)]
pub struct ServiceSpec {
    name: String,
    namespace: String,
    cluster_ips: Vec<IpAddr>,
    selector: BTreeMap<String, String>,
    ports: Vec<(String, u16, u16)>,
    /// Lines of YAML below `spec`.
    fields: Vec<String>,
    /// By the name of the port.
    node_ports: BTreeMap<String, u16>,
}

impl ServiceSpec {
    /// A Service of namespace `shop` that selects the pods whose label `app` has its name.
    pub fn new(name: &str, cluster_ips: &[IpAddr]) -> Self {
        Self {
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            cluster_ips: cluster_ips.to_vec(),
            selector: BTreeMap::from([("app".to_owned(), name.to_owned())]),
            ports: Vec::new(),
            fields: Vec::new(),
            node_ports: BTreeMap::new(),
        }
    }

    /// Puts it in another namespace.
    #[must_use]
    pub fn namespace(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Adds a field of `spec`, as in `sessionAffinity: ClientIP`.
    #[must_use]
    pub fn field(mut self, line: &str) -> Self {
        self.fields.push(line.to_owned());
        self
    }

    /// Has a port open on every node too.
    #[must_use]
    pub fn node_port(mut self, name: &str, node_port: u16) -> Self {
        self.node_ports.insert(name.to_owned(), node_port);
        self
    }

    /// Selects pods by another label than `app`.
    #[must_use]
    pub fn selector(mut self, key: &str, value: &str) -> Self {
        self.selector = BTreeMap::from([(key.to_owned(), value.to_owned())]);
        self
    }

    /// Adds a port; the name says its protocol.
    #[must_use]
    pub fn port(mut self, name: &str, port: u16, target: u16) -> Self {
        self.ports.push((name.to_owned(), port, target));
        self
    }
}

/// The folder that the agents watch.
#[derive(Clone, Debug)]
pub struct ConfigDir {
    path: PathBuf,
}

impl ConfigDir {
    /// Makes the folder.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self { path })
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes `NAME.yaml` whole, replacing what was there.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write(&self, name: &str, yaml: &str) -> Result<()> {
        let (part, whole) = (self.path.join(format!(".{name}.part")), self.path.join(format!("{name}.yaml")));
        fs::write(&part, yaml).with_context(|| format!("write {}", part.display()))?;
        fs::rename(&part, &whole).with_context(|| format!("rename to {}", whole.display()))
    }

    /// Removes `NAME.yaml`.
    ///
    /// # Errors
    /// It is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        let path = self.path.join(format!("{name}.yaml"));
        fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))
    }

    /// Writes the object of a pod as `pod-NAME.yaml`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write_pod(&self, pod: &Pod) -> Result<()> {
        self.write(&format!("pod-{}", pod.name()), &pod_yaml(pod))
    }

    /// Writes a Service as `service-NAMESPACE-NAME.yaml`.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write_service(&self, service: &ServiceSpec) -> Result<()> {
        self.write(&format!("service-{}-{}", service.namespace, service.name), &service_yaml(service))
    }

    /// Writes a Namespace as `namespace-NAME.yaml`; `mode` is its enrolment label.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn write_namespace(&self, name: &str, mode: Option<&str>) -> Result<()> {
        let labels = mode.map(|mode| (MODE.to_owned(), mode.to_owned())).into_iter().collect();
        let labels = map("labels", 2, &labels);
        self.write(
            &format!("namespace-{name}"),
            &format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {name}\n{labels}"),
        )
    }
}

/// The object of a pod, with its addresses.
pub fn pod_yaml(pod: &Pod) -> String {
    let spec = pod.spec();
    let mut annotations = spec.annotations.clone();
    if spec.kubelet_cgroup.is_none() {
        annotations.insert(NETNS.to_owned(), pod.place().netns().path().display().to_string());
    }
    let ports: String = spec
        .ports
        .iter()
        .map(|(name, port)| format!("        - name: {name}\n          containerPort: {port}\n"))
        .collect();
    let ports = if ports.is_empty() { ports } else { format!("      ports:\n{ports}") };
    let probe =
        spec.probe.map(|port| format!("      readinessProbe:\n        tcpSocket:\n          port: {port}\n"));
    let ips: String = pod.addresses().iter().map(|ip| format!("    - ip: \"{ip}\"\n")).collect();
    let ready = if spec.ready { "True" } else { "False" };
    let deleted = if spec.terminating { "  deletionTimestamp: \"2020-01-01T00:00:00Z\"\n" } else { "" };
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {}\n  namespace: {}\n  uid: {}\n{deleted}{}{}\
         spec:\n  nodeName: {}\n  serviceAccountName: {}\n  containers:\n    - name: main\n      image: none\n{ports}{}\
         status:\n  phase: Running\n  podIP: \"{}\"\n  podIPs:\n{ips}  conditions:\n    - type: Ready\n      status: \"{ready}\"\n",
        spec.name,
        spec.namespace,
        spec.uid,
        map("labels", 2, &spec.labels),
        map("annotations", 2, &annotations),
        pod.node(),
        spec.service_account,
        probe.unwrap_or_default(),
        pod.ip(),
    )
}

fn service_yaml(service: &ServiceSpec) -> String {
    let quoted: String = service.cluster_ips.iter().map(|ip| format!("    - \"{ip}\"\n")).collect();
    let addresses = match service.cluster_ips.first() {
        Some(first) => {
            format!("  clusterIP: \"{first}\"\n  clusterIPs:\n{quoted}  ipFamilyPolicy: PreferDualStack\n")
        }
        None => "  clusterIP: None\n".to_owned(),
    };
    let ports: String = service
        .ports
        .iter()
        .map(|(name, port, target)| {
            let node_port = service.node_ports.get(name).map(|port| format!("      nodePort: {port}\n"));
            let node_port = node_port.unwrap_or_default();
            format!("    - name: {name}\n      port: {port}\n      targetPort: {target}\n{node_port}")
        })
        .collect();
    let kind = if service.node_ports.is_empty() { "" } else { "  type: NodePort\n" };
    let fields: String = service.fields.iter().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {}\n  namespace: {}\nspec:\n{addresses}{kind}{fields}{}  ports:\n{ports}",
        service.name,
        service.namespace,
        map("selector", 2, &service.selector),
    )
}

fn map(name: &str, indent: usize, entries: &BTreeMap<String, String>) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let lines: String = entries
        .iter()
        .map(|(key, value)| format!("{:width$}{key}: \"{value}\"\n", "", width = indent + 2))
        .collect();
    format!("{:indent$}{name}:\n{lines}", "")
}
