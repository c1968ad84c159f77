//! `pierhead ctl`: what operators ask of a running edge, from the command line.
//!
//! Everything goes through the API of the admin listener, so nothing can be done here that cannot be done elsewhere, and
//! who may do it is decided in one place.

pub(crate) mod address;
mod client;
mod image;
mod table;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;

use self::address::Target;
pub(crate) use self::client::CtlError;
use self::client::{Client, segment};
pub(crate) use self::image::Image;
use crate::admin::shape::{
    CacheStats, CertificateList, HoldingList, ImageList, Order, Part, Pinned, Pool, PoolList, Purged, Reload, Server,
    SessionList, Version, Why,
};

/// How to reach the edge, and how to show what it says.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Connect to this admin listener [default: the configuration's, or http://127.0.0.1:9090]
    #[arg(long, value_name = "URL", global = true)]
    address: Option<String>,
    /// Read the API's token from this file [default: the configuration's]
    #[arg(long, value_name = "FILE", global = true)]
    token_file: Option<PathBuf>,
    /// Take address and token from the `admin` section of this configuration [default: that of the running quickstart, or
    /// /etc/pierhead/pierhead.yaml]
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// Show the answer so
    #[arg(long, value_name = "FORMAT", global = true, default_value = "table")]
    output: Output,
}

/// How to show an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    /// For people.
    Table,
    /// For programs: as the API says it.
    Json,
}

/// What to ask for.
#[derive(Debug, Subcommand)]
pub(crate) enum Wanted {
    /// What runs, and how its pools and its configuration are
    Status,
    /// Pools: whether they can serve, and how many servers of theirs are up
    Pools,
    /// Servers: state, share, what they are busy with
    Servers {
        /// Of this pool only
        pool: Option<String>,
    },
    /// Lets a server finish what it has, and gives it nothing new
    Drain(Of),
    /// Takes a server out at once: its layer-4 sessions are closed
    Maintenance(Of),
    /// Lets a server serve again
    Ready(Of),
    /// Gives a server another share
    Weight {
        #[command(flatten)]
        of: Of,
        /// 0 to 65535, or `configured` for the one that is written down
        weight: Weight,
    },
    /// Open connections, the oldest first
    Sessions {
        /// Of this listener only
        #[arg(long, value_name = "NAME")]
        listener: Option<String>,
        /// To this pool only
        #[arg(long, value_name = "NAME")]
        pool: Option<String>,
        /// To servers of this name only
        #[arg(long, value_name = "NAME")]
        server: Option<String>,
        /// How many at the most
        #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
        limit: usize,
    },
    /// Closes connections
    Close {
        /// Their numbers, as `sessions` shows them
        #[arg(required = true, value_name = "ID")]
        ids: Vec<u64>,
    },
    /// Show what is in the cache and how much it helps; purge, pin and unpin
    Cache {
        #[command(subcommand)]
        wanted: CacheWanted,
    },
    /// Certificates that listeners show, and when they end
    Certificates,
    /// Reads the configuration again; one that cannot be used changes nothing
    Reload,
    /// Has the program that now lies where the edge was started from take over, without refusing a connection
    Upgrade,
}

/// What to ask of the cache.
#[derive(Debug, Subcommand)]
pub(crate) enum CacheWanted {
    /// List repositories with size and last use, the largest first; of one repository, its tags
    Ls {
        /// A registry, or REGISTRY/REPOSITORY
        of: Option<Image>,
        /// List at most so many repositories
        #[arg(long, value_name = "NUMBER", default_value_t = 1000)]
        limit: usize,
    },
    /// Show size, limit, evictions, and each registry's hit rate since the start
    Stats,
    /// Delete a registry, a repository, an image or a blob from the cache
    Purge {
        /// Such as `docker.io` or `docker.io/library/alpine`; with `:TAG` or `@DIGEST` for less
        image: Image,
    },
    /// Never evict an image, or all of a repository
    Pin {
        /// Such as `docker.io/library/alpine`; with `:TAG` for one image
        image: Image,
    },
    /// Allow eviction again
    Unpin {
        /// Such as `docker.io/library/alpine`; with `:TAG` for one image
        image: Image,
    },
    /// Say why an image is in the cache, or is not
    Why {
        /// Such as `docker.io/library/alpine`; with `:TAG` or `@DIGEST` for one image
        image: Image,
    },
}

/// A server.
#[derive(Debug, Args)]
pub(crate) struct Of {
    /// The pool's name
    pool: String,
    /// The server's name in the pool
    server: String,
}

/// A share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Weight(Option<u32>);

impl std::str::FromStr for Weight {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Weight, Self::Err> {
        match text {
            "configured" => Ok(Weight(None)),
            number => match number.parse::<u16>() {
                Ok(weight) => Ok(Weight(Some(weight.into()))),
                Err(_) => Err("neither a number from 0 to 65535 nor `configured`"),
            },
        }
    }
}

/// Does what is wanted; what is to be shown.
pub(crate) fn run(options: &Options, wanted: &Wanted) -> Result<String, CtlError> {
    let targets = Target::find(options.address.as_deref(), options.token_file.as_deref(), options.config.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(CtlError::Runtime)?;
    runtime.block_on(async {
        let asked = Asked { client: Client::new(targets).await?, output: options.output };
        asked.ask(wanted).await
    })
}

struct Asked {
    client: Client,
    output: Output,
}

impl Asked {
    async fn ask(&self, wanted: &Wanted) -> Result<String, CtlError> {
        match wanted {
            Wanted::Status => self.status().await,
            Wanted::Pools => self.show("/api/v1/pools", |list: &PoolList| table::pools(&list.pools)).await,
            Wanted::Servers { pool: None } => {
                self.show("/api/v1/pools", |list: &PoolList| table::servers(&list.pools)).await
            }
            Wanted::Servers { pool: Some(pool) } => {
                let path = format!("/api/v1/pools/{}", segment(pool));
                self.show(&path, |pool: &Pool| table::servers(std::slice::from_ref(pool))).await
            }
            Wanted::Drain(of) => self.order(of, &Order::Drain {}).await,
            Wanted::Maintenance(of) => self.order(of, &Order::Maintenance {}).await,
            Wanted::Ready(of) => self.order(of, &Order::Ready {}).await,
            Wanted::Weight { of, weight } => self.order(of, &Order::Weight { weight: weight.0 }).await,
            Wanted::Sessions { listener, pool, server, limit } => {
                let mut query = url::form_urlencoded::Serializer::new(String::new());
                query.append_pair("limit", &limit.to_string());
                for (name, value) in [("listener", listener), ("pool", pool), ("server", server)] {
                    if let Some(value) = value {
                        query.append_pair(name, value);
                    }
                }
                let path = format!("/api/v1/sessions?{}", query.finish());
                self.show(&path, |list: &SessionList| table::sessions(list)).await
            }
            Wanted::Close { ids } => self.close(ids).await,
            Wanted::Cache { wanted } => self.cache(wanted).await,
            Wanted::Certificates => {
                self.show("/api/v1/certificates", |list: &CertificateList| table::certificates(list)).await
            }
            Wanted::Reload => {
                let reload: Reload = self.client.ask(Method::POST, "/api/v1/reload", None).await?;
                self.rendered(&reload, |reload| format!("reloaded: configuration {} is in use", reload.generation))
            }
            Wanted::Upgrade => {
                let _before: Reload = self.client.ask(Method::POST, "/api/v1/upgrade", None).await?;
                // Answered by whoever serves now.
                let version: Version = self.client.ask(Method::GET, "/api/v1/version", None).await?;
                self.rendered(&version, |now| format!("upgraded: process {}, version {}", now.pid, now.version))
            }
        }
    }

    async fn cache(&self, wanted: &CacheWanted) -> Result<String, CtlError> {
        match wanted {
            CacheWanted::Stats => self.show("/api/v1/cache", |stats: &CacheStats| table::cache_stats(stats)).await,
            CacheWanted::Ls { of: Some(Image(part)), .. } if part.repository.is_some() => {
                let path = format!("/api/v1/cache/images?{}", image::query(part));
                let list: ImageList = self.client.ask(Method::GET, &path, None).await?;
                self.found(part, !list.images.is_empty())?;
                self.rendered(&list, |list| table::images(&list.images))
            }
            CacheWanted::Ls { of, limit } => {
                let registry = of.as_ref().map(|Image(part)| format!("&{}", image::query(part))).unwrap_or_default();
                let path = format!("/api/v1/cache/repositories?limit={limit}{registry}");
                let list: HoldingList = self.client.ask(Method::GET, &path, None).await?;
                if let Some(Image(part)) = of {
                    self.found(part, list.total > 0)?;
                }
                self.rendered(&list, table::holdings)
            }
            CacheWanted::Why { image: Image(part) } => {
                image::check_named(part).map_err(CtlError::Image)?;
                let path = format!("/api/v1/cache/why?{}", image::query(part));
                let why: Why =
                    self.client.ask(Method::GET, &path, None).await.map_err(|error| image::advised(error, part))?;
                self.rendered(&why, table::why)
            }
            CacheWanted::Purge { image: Image(part) } => {
                let purged: Purged = self.change("purge", part).await?;
                self.found(part, purged.repositories > 0)?;
                self.rendered(&purged, |purged| {
                    let Purged { contents, tags, .. } = purged;
                    let bytes = table::size(purged.bytes);
                    format!("purged {contents} blobs and manifests, {bytes}; forgot {tags} tags")
                })
            }
            CacheWanted::Pin { image: Image(part) } => {
                image::check_named(part).map_err(CtlError::Image)?;
                let pinned: Pinned = self.change("pin", part).await?;
                self.rendered(
                    &pinned,
                    |now| if now.changed { "pinned".to_owned() } else { "was pinned already".to_owned() },
                )
            }
            CacheWanted::Unpin { image: Image(part) } => {
                image::check_named(part).map_err(CtlError::Image)?;
                let pinned: Pinned = self.change("unpin", part).await?;
                self.rendered(&pinned, |now| {
                    if now.changed { "no longer pinned".to_owned() } else { "no operator had pinned it".to_owned() }
                })
            }
        }
    }

    /// Fails where a person asked for what is not here. For scripts an empty list is an answer.
    fn found(&self, part: &Part, found: bool) -> Result<(), CtlError> {
        match self.output {
            Output::Table if !found => Err(CtlError::Image(image::nothing_of(part))),
            _ => Ok(()),
        }
    }

    async fn change<T: DeserializeOwned>(&self, what: &str, part: &Part) -> Result<T, CtlError> {
        let body = serde_json::to_vec(part).map_err(CtlError::Json)?;
        let changed = self.client.ask(Method::POST, &format!("/api/v1/cache/{what}"), Some(body)).await;
        changed.map_err(|error| image::advised(error, part))
    }

    async fn show<T: DeserializeOwned + Serialize>(
        &self,
        path: &str,
        table: impl FnOnce(&T) -> String,
    ) -> Result<String, CtlError> {
        let answer: T = self.client.ask(Method::GET, path, None).await?;
        self.rendered(&answer, table)
    }

    async fn order(&self, of: &Of, order: &Order) -> Result<String, CtlError> {
        let path = format!("/api/v1/pools/{}/servers/{}", segment(&of.pool), segment(&of.server));
        let body = serde_json::to_vec(order).map_err(CtlError::Json)?;
        let server: Server = self.client.ask(Method::POST, &path, Some(body)).await?;
        self.rendered(&server, |server| table::server(&of.pool, server))
    }

    async fn close(&self, ids: &[u64]) -> Result<String, CtlError> {
        for id in ids {
            self.client.tell(Method::DELETE, &format!("/api/v1/sessions/{id}")).await?;
        }
        Ok(match self.output {
            Output::Json => serde_json::json!({ "closed": ids }).to_string(),
            Output::Table => format!("closed {}", ids.len()),
        })
    }

    async fn status(&self) -> Result<String, CtlError> {
        let version: Version = self.client.ask(Method::GET, "/api/v1/version", None).await?;
        let reload: Reload = self.client.ask(Method::GET, "/api/v1/reload", None).await?;
        let pools: PoolList = self.client.ask(Method::GET, "/api/v1/pools", None).await?;
        let sessions: SessionList = self.client.ask(Method::GET, "/api/v1/sessions?limit=0", None).await?;
        let certificates: CertificateList = self.client.ask(Method::GET, "/api/v1/certificates", None).await?;
        let health = self.client.health().await?;
        Ok(match self.output {
            Output::Json => pretty(&serde_json::json!({
                "version": version, "health": health, "reload": reload, "sessions": sessions.total,
                "certificates": certificates.certificates, "refused_certificates": certificates.refused,
                "pools": pools.pools,
            }))?,
            Output::Table => table::status(&table::Standing {
                version: &version,
                health: &health,
                reload: &reload,
                sessions: sessions.total,
                certificates: &certificates,
                pools: &pools.pools,
            }),
        })
    }

    fn rendered<T: Serialize>(&self, answer: &T, table: impl FnOnce(&T) -> String) -> Result<String, CtlError> {
        match self.output {
            Output::Json => pretty(answer),
            Output::Table => Ok(table(answer)),
        }
    }
}

fn pretty<T: Serialize>(answer: &T) -> Result<String, CtlError> {
    serde_json::to_string_pretty(answer).map_err(CtlError::Json)
}
