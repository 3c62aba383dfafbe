//! Prints the messages of a topic until Ctrl-C; goes on where the group left off.
//!
//! `cargo run -p equeue-client --example consumer -- 127.0.0.1:9493 orders printers`

use equeue_client::{Client, ConsumerOptions, Received, Subscription};

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example talks to its user")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let nameserver = arguments.next().unwrap_or_else(|| "127.0.0.1:9493".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "orders".to_owned());
    let group = arguments.next().unwrap_or_else(|| "printers".to_owned());

    let client = Client::builder().nameservers([nameserver]).client_id("example-consumer").connect().await?;
    let options =
        ConsumerOptions { group, topics: vec![Subscription::all(topic)], ..ConsumerOptions::default() };
    let consumer = client.consumer(options).await?;
    let handler = async |message: Received| {
        let body = String::from_utf8_lossy(message.body.as_deref().unwrap_or_default()).into_owned();
        println!("queue {} offset {}: {body}", message.queue, message.offset);
        Ok(())
    };
    let stop = async {
        let _ = tokio::signal::ctrl_c().await;
    };
    consumer.run(handler, stop).await?;
    client.close().await;
    Ok(())
}
