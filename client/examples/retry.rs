//! Fails now and then: the broker keeps such a message and gives it out again after a while; after three attempts it becomes
//! a dead letter of the group (`equeue dlq list --group triers`). Send some messages first: `seq 100 | equeue produce --topic orders`.
//!
//! `cargo run -p equeue-client --example retry -- 127.0.0.1:9493 orders triers`

use std::time::Duration;

use equeue_client::{Client, ConsumerOptions, Context, HandlerError, PushOptions, Received, Subscription};

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example talks to its user")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let nameserver = arguments.next().unwrap_or_else(|| "127.0.0.1:9493".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "orders".to_owned());
    let group = arguments.next().unwrap_or_else(|| "triers".to_owned());

    let client = Client::builder().nameservers([nameserver]).connect().await?;
    let options =
        ConsumerOptions { group, topics: vec![Subscription::all(topic)], ..ConsumerOptions::default() };
    let push = PushOptions {
        attempts_max: 3,
        retry_steps: vec![Duration::from_secs(1), Duration::from_secs(5)],
        ..PushOptions::default()
    };
    let handler = |message: Received, context: Context| async move {
        let body = String::from_utf8_lossy(message.body.as_deref().unwrap_or_default()).into_owned();
        println!("{body}: attempt {}", context.attempt());
        // A message that comes again has an offset of the retry queue; where it was sent to is told beside.
        match message.origin().map_or(message.offset, |origin| origin.offset).0 % 10 {
            3 => Err(HandlerError::retry("offsets that end with 3 never work")),
            5 if context.attempt() == 1 => {
                // Says itself when it wants to see the message again.
                context.retry_after(Duration::from_secs(2));
                Ok(())
            }
            _ => Ok(()),
        }
    };
    let consumer = client.push_consumer(options, push, handler).await?;
    tokio::signal::ctrl_c().await?;
    let stats = consumer.stats();
    println!("{} handed back, {} dead", stats.handed_back, stats.dead);
    consumer.stop().await?;
    client.close().await;
    Ok(())
}
