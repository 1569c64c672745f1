//! Reads foreign bytes as a SPIFFE id, and holds the laws that no bytes may break.

use mesh_common::model::SpiffeId;

pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let Ok(id) = text.parse::<SpiffeId>() else { return };
    assert_eq!(id.to_string(), text, "an id has one spelling");
    let (domain, namespace, account) = (id.trust_domain(), id.namespace(), id.service_account());
    assert_eq!(SpiffeId::new(domain, namespace, account).as_ref(), Ok(&id));
    assert_eq!(**id.principal(), *format!("{domain}/ns/{namespace}/sa/{account}"));
    assert_eq!(**id.qualified_account(), *format!("{namespace}/{account}"));
    for part in [domain.as_str(), namespace, account] {
        assert!(!part.is_empty() && !part.contains(['/', '%', ':', '@', '?', '#', '*']), "{part} is no name");
    }
}
