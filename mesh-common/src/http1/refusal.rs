//! Why a message is refused, with the status that says so.

use crate::model::path::PathError;

/// Why a message is refused. After any of these the connection is closed: where the message ends is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// The request line or status line does not end within the limit.
    #[error("start line is longer than the limit")]
    StartLineTooLong,
    /// The head does not end within the limit.
    #[error("head is longer than the limit")]
    HeadTooLarge,
    /// More fields than the limit.
    #[error("head has more fields than the limit")]
    TooManyFields,
    /// A line ends in LF without CR (RFC 9112 section 2.2 would let it pass).
    #[error("line ends in LF without CR")]
    BareLineFeed,
    /// A line begins with white space (RFC 9112 section 5.2).
    #[error("field is folded over lines")]
    ObsoleteFolding,
    /// The start line is not one.
    #[error("start line is malformed")]
    StartLine,
    /// Neither HTTP/1.1 nor HTTP/1.0.
    #[error("protocol version is neither HTTP/1.1 nor HTTP/1.0")]
    Version,
    /// The method is not served: CONNECT.
    #[error("method CONNECT is not served")]
    Connect,
    /// CONNECT asks for a protocol that is not `websocket` (RFC 8441).
    #[error(":protocol is not websocket")]
    Protocol,
    /// A field's name is no token, or white space stands before its colon.
    #[error("field name is malformed")]
    FieldName,
    /// A field's value holds a control character.
    #[error("field value holds a control character")]
    FieldValue,
    /// The target is no form that the method may have (RFC 9112 section 3.2).
    #[error("request target is malformed")]
    Target,
    /// The target has a fragment.
    #[error("request target has a fragment")]
    Fragment,
    /// The target names a scheme other than `http`.
    #[error("request target has a scheme other than http")]
    Scheme,
    /// The path has no normal form that every reader agrees on.
    #[error("path has no normal form")]
    Path(#[source] PathError),
    /// An HTTP/1.1 request without Host.
    #[error("Host is missing")]
    HostMissing,
    /// Two Host fields.
    #[error("Host is repeated")]
    HostRepeated,
    /// A Host, or the authority of a target, that is not `host[:port]`.
    #[error("Host is malformed")]
    HostInvalid,
    /// Content-Length is not one plain decimal number.
    #[error("Content-Length is not one plain decimal number")]
    ContentLength,
    /// Content-Length with Transfer-Encoding.
    #[error("Content-Length stands beside Transfer-Encoding")]
    LengthAndCoding,
    /// Transfer-Encoding is not exactly one `chunked`.
    #[error("Transfer-Encoding is not exactly one chunked")]
    TransferEncoding,
    /// Transfer-Encoding names a coding that is known but not served.
    #[error("Transfer-Encoding names a coding that is not served")]
    TransferCoding,
    /// Connection is no list of tokens, or nominates a field that the message cannot do without.
    #[error("Connection is malformed or nominates a field that carries the framing")]
    Connection,
    /// Expect says something other than `100-continue`.
    #[error("Expect is not 100-continue")]
    Expect,
    /// Upgrade is no list of protocols.
    #[error("Upgrade is malformed")]
    Upgrade,
    /// A WebSocket's handshake that is no GET, or has a body (RFC 6455 section 4.2.1).
    #[error("WebSocket handshake is no GET, or has a body")]
    WebSocketRequest,
    /// Its key is not 16 bytes in base64, or there is not one.
    #[error("Sec-WebSocket-Key is not one key of 16 bytes")]
    WebSocketKey,
    /// Its version is not 13.
    #[error("Sec-WebSocket-Version is not 13")]
    WebSocketVersion,
    /// A WebSocket is offered over HTTP/1.1 where HTTP/2 is spoken.
    #[error("a WebSocket over HTTP/1.1 is not translated to HTTP/2")]
    Untranslated,
    /// A call of gRPC says how long it may take, and not so that it can be read, or more than once.
    #[error("grpc-timeout is malformed or repeated")]
    GrpcTimeout,
    /// A chunk's size line is malformed.
    #[error("chunk size line is malformed")]
    ChunkSize,
    /// A chunk's data is not followed by CRLF.
    #[error("chunk is not followed by CRLF")]
    ChunkEnd,
    /// More chunk extensions than the limit.
    #[error("chunk extensions are longer than the limit")]
    ChunkExtensions,
    /// The trailer section is malformed.
    #[error("trailer section is malformed")]
    Trailers,
    /// The trailer section is over its limits.
    #[error("trailer section is longer than the limit")]
    TrailersTooLarge,
    /// The rest of a head, or of what must be seen of a body before its request is decided, does not come in time.
    #[error("request does not come in time")]
    Slow,
    /// The peer stopped in the middle of a message.
    #[error("message ends before it is complete")]
    Truncated,
    /// A response that may have no body announces one.
    #[error("response with status 1xx or 204 announces a body")]
    ForbiddenBody,
    /// A status that is no status, or 101 without an upgrade that was asked for.
    #[error("status does not fit the request")]
    Status,
    /// More interim responses than any application sends.
    #[error("too many interim responses")]
    TooManyInterim,
    /// Bytes came that belong to no request.
    #[error("response belongs to no request")]
    Unsolicited,
}

impl Refusal {
    /// The status for a request that is refused for this reason.
    pub fn status(self) -> u16 {
        match self {
            Self::Slow => 408,
            Self::StartLineTooLong => 414,
            Self::HeadTooLarge | Self::TooManyFields | Self::TrailersTooLarge => 431,
            Self::Version => 505,
            Self::Connect | Self::Protocol | Self::TransferCoding | Self::Untranslated => 501,
            Self::Expect => 417,
            Self::WebSocketVersion => 426,
            Self::ForbiddenBody | Self::Status | Self::TooManyInterim | Self::Unsolicited => 502,
            Self::BareLineFeed
            | Self::ObsoleteFolding
            | Self::StartLine
            | Self::FieldName
            | Self::FieldValue
            | Self::Target
            | Self::Fragment
            | Self::Scheme
            | Self::Path(_)
            | Self::HostMissing
            | Self::HostRepeated
            | Self::HostInvalid
            | Self::ContentLength
            | Self::LengthAndCoding
            | Self::TransferEncoding
            | Self::Connection
            | Self::Upgrade
            | Self::WebSocketRequest
            | Self::WebSocketKey
            | Self::GrpcTimeout
            | Self::ChunkSize
            | Self::ChunkEnd
            | Self::ChunkExtensions
            | Self::Trailers
            | Self::Truncated => 400,
        }
    }

    /// The stable code for logs, metrics and answers.
    pub fn reason(self) -> &'static str {
        match self {
            Self::StartLineTooLong => "http1_start_line_too_long",
            Self::HeadTooLarge => "http1_head_too_large",
            Self::TooManyFields => "http1_too_many_fields",
            Self::BareLineFeed => "http1_bare_lf",
            Self::ObsoleteFolding => "http1_obs_fold",
            Self::StartLine => "http1_start_line",
            Self::Version => "http1_version",
            Self::Connect => "http1_connect",
            Self::Protocol => "http2_protocol",
            Self::FieldName => "http1_field_name",
            Self::FieldValue => "http1_field_value",
            Self::Target => "http1_target",
            Self::Fragment => "http1_fragment",
            Self::Scheme => "http1_scheme",
            Self::Path(error) => error.reason(),
            Self::HostMissing => "http1_host_missing",
            Self::HostRepeated => "http1_host_repeated",
            Self::HostInvalid => "http1_host_invalid",
            Self::ContentLength => "http1_content_length",
            Self::LengthAndCoding => "http1_length_and_coding",
            Self::TransferEncoding => "http1_transfer_encoding",
            Self::TransferCoding => "http1_transfer_coding",
            Self::Connection => "http1_connection",
            Self::Expect => "http1_expect",
            Self::Upgrade => "http1_upgrade",
            Self::WebSocketRequest => "websocket_request",
            Self::WebSocketKey => "websocket_key",
            Self::WebSocketVersion => "websocket_version",
            Self::Untranslated => "websocket_untranslated",
            Self::GrpcTimeout => "grpc_timeout",
            Self::ChunkSize => "http1_chunk_size",
            Self::ChunkEnd => "http1_chunk_end",
            Self::ChunkExtensions => "http1_chunk_extensions",
            Self::Trailers => "http1_trailers",
            Self::TrailersTooLarge => "http1_trailers_too_large",
            Self::Slow => "request_timeout",
            Self::Truncated => "http1_truncated",
            Self::ForbiddenBody => "http1_forbidden_body",
            Self::Status => "http1_status",
            Self::TooManyInterim => "http1_too_many_interim",
            Self::Unsolicited => "http1_unsolicited",
        }
    }
}

impl Refusal {
    /// What `httparse` found wrong with a head that is complete.
    pub(super) fn of_token(error: httparse::Error) -> Self {
        match error {
            httparse::Error::HeaderName => Self::FieldName,
            httparse::Error::HeaderValue => Self::FieldValue,
            httparse::Error::TooManyHeaders => Self::TooManyFields,
            httparse::Error::Version => Self::Version,
            httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => Self::StartLine,
        }
    }
}
