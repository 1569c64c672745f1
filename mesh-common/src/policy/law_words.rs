//! The words that laws are tried with: few, so that rules and callers often agree.

pub(super) const PRINCIPALS: [&str; 6] =
    ["*", "td/ns/a/sa/x", "td/ns/a/sa/y", "td/ns/b/sa/x", "td/ns/a/*", "*/sa/x"];
pub(super) const NAMESPACES: [&str; 4] = ["*", "a", "b", "a*"];
pub(super) const ACCOUNTS: [&str; 3] = ["a/x", "b/x", "a/y"];
pub(super) const PATHS: [&str; 9] =
    ["*", "/admin", "/admin/", "/admin*", "/Public/*", "/a;b", "/a", "*/x", "/"];
pub(super) const TARGETS: [&str; 12] = [
    "/",
    "/admin",
    "/ADMIN",
    "/admin/",
    "/admin;x",
    "/admin%2Fx",
    "/public/x",
    "/Public/x",
    "/a;b",
    "/a",
    "/a/",
    "/b/x",
];
pub(super) const HOSTS: [&str; 7] = ["*", "h", "h:80", "H*", "*.example", "h:*", "x.example:8080"];
pub(super) const AUTHORITIES: [&str; 7] = ["h", "H", "h:80", "h:8080", "x.example", "X.Example.:8080", "y"];
pub(super) const METHODS: [&str; 4] = ["*", "GET", "POST", "G*"];
pub(super) const ROLES: [&str; 4] = ["*", "admin", "user", "ad*"];
pub(super) const FIELDS: [&str; 5] = ["admin", "user", "user,admin", "", "admin, admin"];
pub(super) const USERS: [&str; 4] = ["*", "issuer/user", "issuer/*", "*/other"];
pub(super) const GROUPS: [&str; 4] = ["*", "admin", "us*", "7"];
pub(super) const TOKENS: [&str; 5] = [
    r#"{"iss": "issuer"}"#,
    r#"{"iss": "issuer", "sub": "user", "groups": ["admin", "user", 7]}"#,
    r#"{"iss": "issuer", "sub": "other", "groups": "user admin", "realm": {"groups": "admin"}}"#,
    r#"{"iss": "issuer", "sub": "user", "groups": {"admin": true}, "realm": {"groups": [7, "user"]}}"#,
    r#"{"iss": "issuer", "sub": "user", "groups": "", "realm": "admin"}"#,
];
pub(super) const BLOCKS: [&str; 5] = ["0.0.0.0/0", "10.0.0.0/8", "10.0.0.1/32", "fd00::/8", "10.0.1.7/24"];
pub(super) const SOURCES: [&str; 4] = ["10.0.0.1", "10.0.1.2", "192.168.0.1", "fd00::1"];
