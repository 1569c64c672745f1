//! What the HTTP/1.1 codec costs per message: read, judged and rebuilt.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mesh_common::http1::{
    Authority, HeadScan, IDENTITY_FIELDS, ReadRules, RequestHead, ResponseFor, ResponseHead, ResponseTo,
    StripList, Version, write_request, write_response,
};

const SMALL: &[u8] = b"GET /api/items/42 HTTP/1.1\r\nHost: web.shop.svc.cluster.local\r\n\r\n";
const BROWSER: &[u8] = b"GET /api/items/42?sort=price&page=3 HTTP/1.1\r\nHost: web.shop.svc.cluster.local:8080\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0\r\n\
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: en-US,en;q=0.5\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\nConnection: keep-alive\r\nReferer: http://web.shop.svc.cluster.local/\r\n\
Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\
Upgrade-Insecure-Requests: 1\r\nPriority: u=0, i\r\nPragma: no-cache\r\nCache-Control: no-cache\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Sat, 21 Nov 2026 11:00:00 GMT\r\n\
Content-Type: text/plain\r\nContent-Length: 3\r\nLast-Modified: Sat, 21 Nov 2026 10:00:00 GMT\r\nConnection: keep-alive\r\n\
ETag: \"6740\"\r\nAccept-Ranges: bytes\r\n\r\n";

fn heads(criterion: &mut Criterion) {
    let rules = ReadRules { strip: StripList::of(IDENTITY_FIELDS), ..ReadRules::default() };
    let dialled = Authority::parse(b"10.0.0.1:8080").expect("an address is an authority");
    let mut out = Vec::with_capacity(4096);
    let mut group = criterion.benchmark_group("http1");
    for (name, input) in [("request, 2 fields", SMALL), ("request, 14 fields", BROWSER)] {
        group.throughput(Throughput::Elements(1)).bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                let head = RequestHead::read(black_box(input), &mut HeadScan::default(), &rules);
                let head = head.expect("the head is well formed").expect("the head is complete");
                let judged = head.facts(&dialled, |facts| facts.headers.len());
                write_request(&head, &dialled, &[], &mut out);
                judged + out.len()
            });
        });
    }
    let to = ResponseFor { version: Version::Http11, keep_alive: true, head: false };
    group.bench_function("response, 9 fields", |bencher| {
        bencher.iter(|| {
            out.clear();
            let head = ResponseHead::read(
                black_box(ANSWER),
                &mut HeadScan::default(),
                &rules,
                ResponseTo::default(),
            );
            let head = head.expect("the head is well formed").expect("the head is complete");
            write_response(&head, None, to, &mut out).1
        });
    });
    group.finish();
}

criterion_group!(benches, heads);
criterion_main!(benches);
