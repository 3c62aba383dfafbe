//! Handles the messages of each key in the order they were sent, whatever happens to the members of the group.
//!
//! `cargo run -p equeue-client --example sequential -- 127.0.0.1:9493 orders ledger`

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use equeue_client::{Client, ConsumerOptions, Context, HandlerError, PushOptions, Received, Subscription};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example talks to its user")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let nameserver = arguments.next().unwrap_or_else(|| "127.0.0.1:9493".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "orders".to_owned());
    let group = arguments.next().unwrap_or_else(|| "ledger".to_owned());

    let client = Client::builder().nameservers([nameserver]).connect().await?;
    let options =
        ConsumerOptions { group, topics: vec![Subscription::all(topic)], ..ConsumerOptions::default() };
    let seen: Arc<Mutex<HashMap<Vec<u8>, u64>>> = Arc::default();
    let handler = move |message: Received, _: Context| {
        let seen = Arc::clone(&seen);
        async move {
            let key = message.key.as_deref().unwrap_or_default().to_vec();
            let name = String::from_utf8_lossy(&key).into_owned();
            let mut seen = seen.lock().map_err(|error| HandlerError::retry(error.to_string()))?;
            let count = seen.entry(key).or_default();
            *count += 1;
            println!("{name}: message {count}, at offset {} of queue {}", message.offset, message.queue);
            Ok(())
        }
    };
    // A message that cannot be handled holds its queue until it can, so that nothing overtakes it.
    let consumer = client.push_consumer(options, PushOptions::sequential(), handler).await?;
    tokio::signal::ctrl_c().await?;
    consumer.stop().await?;
    client.close().await;
    Ok(())
}
