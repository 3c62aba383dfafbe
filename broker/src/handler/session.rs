//! Hello and heartbeats.

use std::sync::Arc;

use equeue_net::Code;
use equeue_net::api::{Heartbeat, HeartbeatAnswer, Hello, HelloAnswer, Status};
use equeue_net::frame::FRAME_VERSION;

use crate::group::{Link, Member};
use crate::shard::session::Session;
use crate::shard::state::Shard;

/// Opens a connection.
pub(crate) fn hello(shard: &Shard, session: &Session, request: &Hello) -> HelloAnswer {
    if !(request.version_min..=request.version_max).contains(&FRAME_VERSION) {
        let detail = format!(
            "the client speaks versions {}..{}, this broker {FRAME_VERSION}",
            request.version_min, request.version_max
        );
        return HelloAnswer { status: Status::new(Code::Unsupported, detail), ..HelloAnswer::default() };
    }
    if request.incarnation == 0 {
        // It stands for "nobody" where grants are stored.
        let status = Status::new(Code::Invalid, "an incarnation is a random number, not 0");
        return HelloAnswer { status, ..HelloAnswer::default() };
    }
    session.greeted.set(true);
    *session.client.borrow_mut() =
        Member { client_id: Arc::from(request.client_id.as_str()), incarnation: request.incarnation };
    session.link.set_opened();
    tracing::debug!(peer = %session.link.peer(), client = request.client_id, "client connected");
    let broker = &shard.broker;
    HelloAnswer {
        status: Status::OK,
        version: FRAME_VERSION,
        shard: shard.index,
        shards: shard.shards(),
        server: broker.config.name.clone(),
        incarnation: broker.incarnation,
        frame_bytes_max: u32::try_from(broker.config.net.frame_bytes_max.0).unwrap_or(u32::MAX),
        batch_bytes_max: u32::try_from(broker.batch_bytes_max).unwrap_or(u32::MAX),
        mechanisms: Vec::new(),
    }
}

/// Remembers who is there.
pub(crate) fn heartbeat(shard: &Shard, session: &Session, beat: Heartbeat) -> HeartbeatAnswer {
    let link = Link { id: session.id, address: session.link.peer().to_string() };
    shard.presence.borrow_mut().beat(link, session.member(), beat, shard.now_ms());
    HeartbeatAnswer { status: Status::OK }
}
