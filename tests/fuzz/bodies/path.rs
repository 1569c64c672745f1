//! Normalises foreign bytes as the target of a request, and holds the laws that no bytes may break.

use mesh_common::model::path::RequestTarget;

pub fn run(input: &[u8]) {
    let Ok(target) = RequestTarget::parse(input) else { return };
    let normal = target.path.as_str();
    for reading in [normal, target.path.plain()] {
        assert!(reading.starts_with('/') && reading.is_ascii());
        assert!(!reading.contains("//") && !reading.contains('\\') && !reading.contains("%00"));
        assert!(!reading.split('/').any(|segment| segment == "." || segment == ".."));
    }
    let again = RequestTarget::parse(normal.as_bytes()).expect("a normal path is a path");
    assert_eq!((again.path, again.query), (target.path.clone(), None));
}
