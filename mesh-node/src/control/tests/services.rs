//! Endpoints of Services, as the objects of a folder give them.

use mesh_common::snapshot::KnownService;

use super::*;

#[test]
fn endpoints_follow_pods_and_slices() {
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {clusterIP: 10.96.0.1, selector: {app: a}, ports: [{port: 80, targetPort: 8080}]}\n";
    with_folder(&[("s.yaml", service), ("a.yaml", &pod("a", "10.0.0.1"))], |folder| async move {
        let endpoints = |folder: &Folder| -> Vec<String> {
            let KnownService::Port(port) = folder.snapshot().service_at("10.96.0.1:80".parse().unwrap())
            else {
                return Vec::new();
            };
            port.endpoints()
                .iter()
                .map(|endpoint| format!("{}:{}", endpoint.address, endpoint.port))
                .collect()
        };
        assert_eq!(endpoints(&folder), ["10.0.0.1:8080"]);
        folder.write("slice.json", "{\"apiVersion\": \"discovery.k8s.io/v1\", \"kind\": \"EndpointSlice\", \"metadata\": {\"name\": \"x\", \"namespace\": \"shop\", \"labels\": {\"kubernetes.io/service-name\": \"web\"}}, \"addressType\": \"IPv4\", \"ports\": [{\"port\": 9}], \"endpoints\": [{\"addresses\": [\"10.9.9.9\"]}]}");
        folder.eventually("the slice counts", || endpoints(&folder) == ["10.9.9.9:9"]).await;
    });
}

#[test]
fn a_service_has_endpoints_of_the_families_of_its_cluster_ips() {
    let pod = pod("a", "10.0.0.1").replace("podIP: 10.0.0.1", "podIPs: [{ip: 10.0.0.1}, {ip: fd00::1}]");
    let service = |ips: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: web, namespace: shop}}\nspec: {{clusterIPs: [{ips}], selector: {{app: a}}, ports: [{{port: 80}}]}}\n"
        )
    };
    with_folder(&[("s.yaml", &service("10.96.0.1")), ("a.yaml", &pod)], |folder| async move {
        let endpoints = |folder: &Folder| {
            let KnownService::Port(port) = folder.snapshot().service_at("10.96.0.1:80".parse().unwrap())
            else {
                return 0;
            };
            port.endpoints().len()
        };
        assert_eq!(endpoints(&folder), 1);
        folder.write("s.yaml", &service("10.96.0.1, \"fd00:96::1\""));
        folder.eventually("both families count", || endpoints(&folder) == 2).await;
    });
}
