//! Looks at foreign bytes as the beginning of a connection, and holds the laws that no bytes may break.

use mesh_common::model::client_hello::{ClientHello, MAX_HELLO, NoHello, ServerName};
use mesh_common::model::{Detector, Found};
use mesh_common::tunnel::{Hello, hello};

pub fn run(input: &[u8]) {
    let read = ClientHello::read(input);
    match &read {
        Ok(hello) => {
            if let ServerName::Name(name) = hello.server_name() {
                assert!(!name.is_empty() && name.len() <= 253);
                assert!(name.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()));
            }
            assert!(hello.protocols().map(<[u8]>::len).sum::<usize>() < MAX_HELLO);
        }
        Err(NoHello::Incomplete) => assert!(input.len() < MAX_HELLO),
        Err(NoHello::Malformed | NoHello::Foreign) => assert_eq!(hello(input), Hello::Foreign),
    }
    // However it is cut, the same is found; and more bytes never change what was.
    let whole = Found::in_bytes(input);
    for size in [1, 5, 64] {
        // What is added little by little is not looked at for ever.
        if input.len() > 1_000 * size {
            continue;
        }
        let mut detector = Detector::default();
        let found = input.chunks(size).find_map(|piece| detector.client_said(piece));
        assert_eq!(found, whole, "cut into pieces of {size}");
    }
    let _ = Found::in_all(input);
}
