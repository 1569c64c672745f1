//! How long a change of one object takes in a folder of 10,000 Services and 100,000 endpoints, from read text to a
//! snapshot. Prints one line for each step; DESIGN section 10 asks for at most 100 ms. Last, what one large file takes:
//! it is read apart, and what is taken of it then is what an edit of another file may wait for.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_common::model::{MeshSettings, Text};
use mesh_common::snapshot::Snapshot;
use mesh_node::control::documents::{MAX_OBJECTS, Reader};
use mesh_node::control::reconciler::Reconciler;
use mesh_node::control::store::Store;

const SERVICES: usize = 10_000;
const ENDPOINTS: usize = 10;
const FILES: usize = 100;
const ROUNDS: u32 = 20;
/// Documents of the large file.
const DOCUMENTS: usize = MAX_OBJECTS;

struct World {
    store: Store,
    reconciler: Reconciler,
}

fn main() {
    let settings = Arc::new(MeshSettings::default());
    let mut world = World {
        store: Store::new(Reader::new(Arc::clone(&settings))),
        reconciler: Reconciler::new(settings),
    };
    let files: Vec<String> = (0..FILES).map(|file| text(file, 0)).collect();
    let bytes: usize = files.iter().map(String::len).sum();
    let started = Instant::now();
    for (file, text) in files.iter().enumerate() {
        world.put(&name(file), text);
    }
    let snapshot = world.publish();
    println!(
        "whole folder: {SERVICES} Services, {} endpoints, {} MB: {:?}",
        SERVICES * ENDPOINTS,
        bytes / 1_000_000,
        started.elapsed()
    );
    assert_eq!(snapshot.services().count(), SERVICES);

    let one = "apiVersion: v1\nkind: Pod\nmetadata: {name: new, namespace: shop}\nspec: {nodeName: a}\nstatus: {podIP: 10.200.0.";
    report("one small file", &mut world, |round| ("zz.yaml".to_owned(), format!("{one}{round}}}\n")));
    report("one Service in a file of 100", &mut world, |round| (name(7).to_string(), text(7, round + 1)));
    large_file(&mut world);
    report("one small file beside it", &mut world, |round| {
        ("zz.yaml".to_owned(), format!("{one}{round}}}\n"))
    });
}

fn large_file(world: &mut World) {
    let one = |pod: usize| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: pod-{pod}\n  namespace: large\n  labels:\n    app: large\nspec:\n  nodeName: a\nstatus:\n  podIP: 10.{}.{}.{}\n",
            220 + pod / 65_536,
            pod / 256 % 256,
            pod % 256
        )
    };
    let text = (0..DOCUMENTS).map(one).collect::<Vec<_>>().join("---\n");
    let file: Text = "large.yaml".into();
    let started = Instant::now();
    let read = world.store.reader(&file).read(&text).expect("as many as one file may have");
    let took = started.elapsed();
    let started = Instant::now();
    world.store.put(&file, read);
    black_box(world.publish());
    println!(
        "one file of {DOCUMENTS} documents, {} MB: read apart in {took:?}, then taken in {:?}",
        text.len() / 1_000_000,
        started.elapsed()
    );
}

impl World {
    fn put(&mut self, file: &Text, text: &str) {
        let text = self.store.reader(file).read(text).expect("fewer than one file may have");
        self.store.put(file, text);
    }

    fn publish(&mut self) -> Snapshot {
        let changes = self.store.changes();
        self.reconciler.apply(changes);
        black_box(self.store.problems());
        self.reconciler.snapshot()
    }
}

fn report(what: &str, world: &mut World, change: impl Fn(u32) -> (String, String)) {
    let mut times: Vec<Duration> = (0..ROUNDS)
        .map(|round| {
            let (file, text) = change(round);
            let before = world.publish().generation();
            let started = Instant::now();
            world.put(&file.as_str().into(), &text);
            let snapshot = world.publish();
            let took = started.elapsed();
            assert_eq!(snapshot.generation(), before + 1, "the change is in the snapshot");
            took
        })
        .collect();
    times.sort();
    let [min, median, max] = [0, times.len() / 2, times.len() - 1].map(|index| times[index]);
    println!("{what}: min {min:?}, median {median:?}, max {max:?}");
}

fn name(file: usize) -> Text {
    format!("{file:03}.yaml").into()
}

/// One file's share of the Services, each with its slice. The first Service says in a label which round it is.
fn text(file: usize, round: u32) -> String {
    let mut text = String::new();
    for service in file * (SERVICES / FILES)..(file + 1) * (SERVICES / FILES) {
        let (high, low) = (service / 250, service % 250);
        let timeout = if service % (SERVICES / FILES) == 0 { 10 + round } else { 10 };
        text.push_str(&format!(
            "---\napiVersion: v1\nkind: Service\nmetadata:\n  name: service-{service}\n  namespace: shop\nspec:\n  clusterIP: 10.96.{high}.{low}\n  selector:\n    app: app-{service}\n  sessionAffinity: ClientIP\n  sessionAffinityConfig:\n    clientIP:\n      timeoutSeconds: {timeout}\n  ports:\n    - name: http\n      port: 80\n      targetPort: 8080\n\
             ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: service-{service}-x\n  namespace: shop\n  labels:\n    kubernetes.io/service-name: service-{service}\naddressType: IPv4\nports:\n  - name: http\n    port: 8080\nendpoints:\n"
        ));
        for endpoint in 0..ENDPOINTS {
            let number = service * ENDPOINTS + endpoint;
            text.push_str(&format!(
                "  - addresses: [10.{}.{}.{}]\n    nodeName: node-{}\n    conditions:\n      ready: true\n",
                100 + number / 65_536,
                number / 256 % 256,
                number % 256,
                number % 50
            ));
        }
    }
    text
}
