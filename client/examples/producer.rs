//! Sends messages with keys and prints where they are stored.
//!
//! `cargo run -p equeue-client --example producer -- 127.0.0.1:9493 orders 10`

use equeue_client::{Client, Message, ProducerOptions};

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "an example talks to its user")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let nameserver = arguments.next().unwrap_or_else(|| "127.0.0.1:9493".to_owned());
    let topic = arguments.next().unwrap_or_else(|| "orders".to_owned());
    let count: u32 = arguments.next().map_or(Ok(10), |count| count.parse())?;

    let client = Client::builder().nameservers([nameserver]).client_id("example-producer").connect().await?;
    let producer = client.producer(ProducerOptions::default());
    for number in 0..count {
        let (key, body) = (format!("customer-{}", number % 3), format!("order {number}"));
        let message = Message::new(&topic, body.as_bytes()).key(key.as_bytes()).tag("created");
        let receipt = producer.send(&message).await?;
        println!("{body}: queue {} offset {} id {}", receipt.queue, receipt.offset, receipt.id());
    }
    producer.close().await;
    client.close().await;
    Ok(())
}
