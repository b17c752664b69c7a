//! Kafka and Redis on one engine, one core: `redis DIR KAFKA_PORT REDIS_PORT`. What redis-cli adds to
//! a stream, Kafka's consumers read from the topic of its name, and the other way round. Topics are
//! Kafka's to make: the cluster knows of no others.

use kariz_engine::{Mark, Shard};
use kariz_server::{Options, Server};
use std::net::SocketAddr;

#[path = "../../engine/examples/resp/main.rs"]
#[allow(dead_code, unreachable_pub, reason = "a program of its own")]
mod resp;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [dir, kafka, redis] = args.as_slice() else { Err("redis DIR KAFKA_PORT REDIS_PORT")? };
    let listen = SocketAddr::from(([127, 0, 0, 1], kafka.parse()?));
    let first = SocketAddr::from(([127, 0, 0, 1], redis.parse()?));
    let options = Options { data: dir.into(), listen, cores: vec![0], ..Options::default() };
    let server = Server::start(options)?;
    let engine = server.engine().ok_or("it has stopped")?;
    let serve = move |shard: Shard| resp::serve(shard, resp::Options(first, Mark::High, false));
    engine.serve(serve)?;
    drop(engine);
    Ok(server.wait()?)
}
