//! Puts objects where an API server has them, past it: a hundred thousand creations through it would take longer than all
//! that is measured.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use http::uri::PathAndQuery;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::objects::Stored;

/// What a store takes in one go.
const BATCH: usize = 100;
/// What keys of Kubernetes begin with.
const PREFIX: &str = "/registry";

/// `etcdserverpb.PutRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Put {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// `etcdserverpb.RequestOp`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Operation {
    #[prost(message, optional, tag = "2")]
    put: Option<Put>,
}

/// `etcdserverpb.TxnRequest`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Transaction {
    #[prost(message, repeated, tag = "2")]
    success: Vec<Operation>,
}

/// `etcdserverpb.TxnResponse`.
#[derive(Clone, PartialEq, Eq, prost::Message)]
struct Done {
    #[prost(bool, tag = "2")]
    succeeded: bool,
}

/// Puts all of them.
///
/// # Errors
/// The store does not take them.
pub async fn fill(store: SocketAddr, objects: impl Iterator<Item = Stored>) -> Result<usize> {
    let channel = Endpoint::from_shared(format!("http://{store}"))?.connect().await;
    let channel = channel.with_context(|| format!("reach the store at {store}"))?;
    let (mut batch, mut count) = (Vec::with_capacity(BATCH), 0);
    for Stored { key, value } in objects {
        let put = Put { key: format!("{PREFIX}/{key}").into(), value: serde_json::to_vec(&value)? };
        batch.push(Operation { put: Some(put) });
        count += 1;
        if batch.len() == BATCH {
            commit(&channel, std::mem::take(&mut batch)).await?;
        }
    }
    commit(&channel, batch).await?;
    Ok(count)
}

async fn commit(channel: &Channel, success: Vec<Operation>) -> Result<()> {
    let mut store = tonic::client::Grpc::new(channel.clone());
    store.ready().await.context("wait for the store")?;
    let path = PathAndQuery::from_static("/etcdserverpb.KV/Txn");
    let codec = ProstCodec::<Transaction, Done>::default();
    store.unary(Request::new(Transaction { success }), path, codec).await.context("put objects")?;
    Ok(())
}
