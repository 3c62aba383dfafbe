//! Headers of Hello and Heartbeat.

use super::read::{Check, incarnation, root};
use super::write;
use crate::api::{DecodeError, Heartbeat, Hello, HelloAnswer, Kind, Message};
use crate::limits::{MECHANISMS_MAX, TOPICS_MAX};
use crate::schema::wire;

impl Message for Hello {
    const KIND: Kind = Kind::Hello;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let client_id = b.create_string(&self.client_id);
            wire::Hello::create(
                b,
                &wire::HelloArgs {
                    version_min: self.version_min,
                    version_max: self.version_max,
                    client_id: Some(client_id),
                    incarnation: Some(&write::incarnation(self.incarnation)),
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::Hello<'_>>(Self::KIND, header)?;
        if table.version_min() > table.version_max() {
            return Err(check.refuse("version_min"));
        }
        Ok(Self {
            version_min: table.version_min(),
            version_max: table.version_max(),
            client_id: check.name("client_id", Some(table.client_id()))?,
            incarnation: incarnation(table.incarnation()),
        })
    }
}

impl Message for HelloAnswer {
    const KIND: Kind = Kind::Hello;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let detail = write::detail(b, &self.status);
            let server = write::text(b, &self.server);
            let mechanisms = write::names(b, &self.mechanisms);
            wire::HelloAnswer::create(
                b,
                &wire::HelloAnswerArgs {
                    status: Some(&write::status_head(&self.status)),
                    detail,
                    version: self.version,
                    shard: self.shard,
                    shards: self.shards,
                    server,
                    incarnation: Some(&write::incarnation(self.incarnation)),
                    frame_bytes_max: self.frame_bytes_max,
                    batch_bytes_max: self.batch_bytes_max,
                    mechanisms,
                },
            )
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::HelloAnswer<'_>>(Self::KIND, header)?;
        Ok(Self {
            status: check.status(*table.status(), table.detail())?,
            version: table.version(),
            shard: table.shard(),
            shards: table.shards(),
            server: check.name("server", table.server())?,
            incarnation: table.incarnation().map_or(0, incarnation),
            frame_bytes_max: table.frame_bytes_max(),
            batch_bytes_max: table.batch_bytes_max(),
            mechanisms: check.names("mechanisms", table.mechanisms(), MECHANISMS_MAX)?,
        })
    }
}

impl Message for Heartbeat {
    const KIND: Kind = Kind::Heartbeat;

    fn encode(&self, out: &mut Vec<u8>) {
        write::encode(out, |b| {
            let producing = write::names(b, &self.producing);
            let group = write::text(b, &self.group);
            let consuming = write::names(b, &self.consuming);
            wire::Heartbeat::create(b, &wire::HeartbeatArgs { producing, group, consuming })
        });
    }

    fn decode(header: &[u8]) -> Result<Self, DecodeError> {
        let check = Check(Self::KIND);
        let table = root::<wire::Heartbeat<'_>>(Self::KIND, header)?;
        Ok(Self {
            producing: check.names("producing", table.producing(), TOPICS_MAX)?,
            group: check.name("group", table.group())?,
            consuming: check.names("consuming", table.consuming(), TOPICS_MAX)?,
        })
    }
}

write::status_only! { HeartbeatAnswer HeartbeatAnswerArgs Heartbeat; }
