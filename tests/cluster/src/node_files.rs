//! What a node's programs are told: their configuration files.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;

use crate::certificates::Certificates;
use crate::images::PAUSE;
use crate::network::Families;
use crate::node::CONTAINERD;

/// Where a node has the network plugins, as most do.
pub const PLUGINS: &str = "/opt/cni/bin";

/// Where a node's kubelet finds static pods, below the node's folder.
pub const STATIC_PODS: &str = "static-pods";

/// Writes `containerd.toml`, `kubelet.json`, `cni.conflist` and `resolv.conf` to the node's folder.
///
/// # Errors
/// They cannot be written.
pub fn write(
    folder: &Path,
    name: &str,
    number: u8,
    families: Families,
    certificates: &Certificates,
) -> Result<()> {
    let static_pods = folder.join(STATIC_PODS);
    fs::create_dir_all(&static_pods).with_context(|| format!("make {}", static_pods.display()))?;
    let files = [
        ("containerd.toml", containerd()),
        ("kubelet.json", kubelet(folder, name, families, certificates)),
        ("cni.conflist", plugins(number, families)),
        // No name server but the cluster's own is reached.
        ("resolv.conf", String::new()),
    ];
    for (file, text) in files {
        let path = folder.join(file);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

fn containerd() -> String {
    format!(
        r#"version = 3
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{PAUSE}"
[plugins."io.containerd.cri.v1.runtime"]
  # Where CAP_SYS_RESOURCE is missing nothing may lower its score, and runc dies when it tries.
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["{PLUGINS}"]
    conf_dir = "/etc/cni/net.d"
"#
    )
}

fn kubelet(folder: &Path, name: &str, families: Families, certificates: &Certificates) -> String {
    let file = |name: &str| certificates.file(name).display().to_string();
    let configuration = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        // Without it IPv4's alone.
        "address": if families == Families::Ipv6 { "::" } else { "0.0.0.0" },
        "containerRuntimeEndpoint": format!("unix://{CONTAINERD}"),
        "cgroupDriver": "cgroupfs",
        "failCgroupV1": false,
        "failSwapOn": false,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": file("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": file(&format!("{name}.crt")),
        "tlsPrivateKeyFile": file(&format!("{name}.key")),
        "clusterDNS": [families.name_server().to_string()],
        "clusterDomain": "cluster.local",
        "resolvConf": folder.join("resolv.conf"),
        "staticPodPath": folder.join(STATIC_PODS),
        "fileCheckFrequency": "1s",
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        // This machine's disk is not the cluster's to judge.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "50Mi",
            "nodefs.available": "0%",
            "nodefs.inodesFree": "0%",
            "imagefs.available": "0%",
        },
        "nodeStatusUpdateFrequency": "5s",
        // How often what a pod has mounted of a ConfigMap follows it; a minute is usual.
        "syncFrequency": "10s",
    });
    format!("{configuration:#}\n")
}

fn plugins(number: u8, families: Families) -> String {
    let ranges: Vec<_> = families.pods_of(number).iter().map(|range| json!([{ "subnet": range }])).collect();
    let routes: Vec<_> = families.of(["0.0.0.0/0", "::/0"]).iter().map(|all| json!({ "dst": all })).collect();
    let list = json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": ranges,
                    "routes": routes,
                },
            },
            { "type": "portmap", "capabilities": { "portMappings": true } },
        ],
    });
    format!("{list:#}\n")
}
