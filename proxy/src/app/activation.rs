//! Sockets that systemd opened for us (`LISTEN_FDS`), and which listener each is for: the one that it is named after
//! (`FileDescriptorName=`), else the one that wants its address.

use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;
use pierhead_config::Config;

use super::sockets::{ADMIN, Place};

/// Takes what was handed over. Changes the environment, so it must come before anything else runs.
pub(super) fn sockets(config: &Config) -> Vec<(Place, TcpListener)> {
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let mut names = names.split(':');
    let mut given = ListenFd::from_env();
    let mut sockets = Vec::new();
    for index in 0..given.len() {
        let name = names.next().unwrap_or_default();
        let socket = given.take_tcp_listener(index).and_then(|socket| {
            let socket = socket.ok_or(std::io::ErrorKind::NotFound)?;
            let address = socket.local_addr()?;
            Ok((socket, address))
        });
        match socket {
            Ok((socket, address)) => match choose(config, name, address) {
                Some(place) => sockets.push((place, socket)),
                None => eprintln!("no listener wants the socket {name} at {address} that was handed over: closed"),
            },
            Err(error) => eprintln!("the socket {name} that was handed over cannot be used: {error}"),
        }
    }
    sockets
}

/// Which listener a socket is for. Pure.
fn choose(config: &Config, name: &str, address: SocketAddr) -> Option<Place> {
    let listeners = config.listeners.iter().map(|listener| (listener.name.as_str(), listener.bind));
    let mut wanted = listeners.chain([(ADMIN, config.admin.bind)]);
    let by_name = wanted.clone().find(|(other, _)| *other == name);
    let (name, bind) = by_name.or_else(|| wanted.find(|(_, bind)| *bind == address))?;
    Some(Place::of(name, bind))
}
