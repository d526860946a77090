//! All links of the namespace in one consistent dump.

use futures::StreamExt as _;
use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, Nla,
};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoTun, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo, LinkMessage,
};

use crate::NetError;

/// `IFLA_TUN_OWNER` of linux/if_link.h.
const TUN_OWNER: u16 = 1;
/// `ENODEV` of asm-generic/errno-base.h: there is no such link.
const GONE: i32 = -19;
/// How often a dump is tried before the survey fails.
const DUMP_TRIES: usize = 10;

/// A conversation with the kernel. It ends when this is dropped.
#[derive(Debug)]
pub(in crate::host) struct Netlink {
    pub(in crate::host) handle: rtnetlink::Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Netlink {
    pub(in crate::host) fn open() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection()
            .map_err(|error| NetError::failed("open", "a netlink socket", error))?;
        Ok(Self {
            handle,
            task: tokio::spawn(connection),
        })
    }

    /// One whose dumps the kernel narrows down to what is asked for.
    pub(in crate::host) fn strict() -> Result<Self, NetError> {
        let (connection, handle, _) = rtnetlink::new_connection_with_strict_check()
            .map_err(|error| NetError::failed("open", "a netlink socket", error))?;
        Ok(Self {
            handle,
            task: tokio::spawn(connection),
        })
    }

    /// One that also hands on the end of each dump: without it a dump that broke off looks
    /// like a short one. (rtnetlink's own requests do not expect the end: not for them.)
    fn for_dumps() -> Result<Self, NetError> {
        let (mut connection, handle, _) = rtnetlink::new_connection()
            .map_err(|error| NetError::failed("open", "a netlink socket", error))?;
        connection.set_forward_done(true);
        Ok(Self {
            handle,
            task: tokio::spawn(connection),
        })
    }

    /// Deletes a link; one that is gone is a success.
    pub(in crate::host) async fn delete(&self, index: u32) -> Result<(), rtnetlink::Error> {
        match self.handle.link().del(index).execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == GONE => Ok(()),
            other => other,
        }
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::host) enum Kind {
    Bridge,
    Tap,
    Other,
}

/// One link.
#[derive(Debug, Clone)]
pub(in crate::host) struct Link {
    pub(in crate::host) index: u32,
    pub(in crate::host) name: String,
    pub(in crate::host) kind: Kind,
    /// Empty when it has none.
    pub(in crate::host) alias: String,
    pub(in crate::host) up: bool,
    /// The bridge that it is a port of.
    pub(in crate::host) master: Option<u32>,
    pub(in crate::host) group: u32,
    pub(in crate::host) mac: Vec<u8>,
    /// The uid that may attach to a TAP.
    pub(in crate::host) tap_owner: Option<u32>,
}

/// Why a dump cannot be trusted.
#[derive(Debug, thiserror::Error)]
enum DumpError {
    #[error("the kernel refused: {0}")]
    Refused(rtnetlink::packet_core::ErrorMessage),
    #[error("the answer broke off before its end")]
    Incomplete,
    #[error("the interfaces changed during each of {DUMP_TRIES} tries; try again")]
    Interrupted,
    #[error("the request could not be sent")]
    Send(#[from] rtnetlink::Error),
}

/// Whether a dump failed only because too much went on meanwhile.
pub(crate) fn is_passing(error: &(dyn std::error::Error + 'static)) -> bool {
    matches!(
        error.downcast_ref(),
        Some(DumpError::Interrupted | DumpError::Incomplete)
    )
}

/// All links. A dump that is not whole is an error, never a short list.
pub(in crate::host) async fn links() -> Result<Vec<Link>, NetError> {
    let netlink = Netlink::for_dumps()?;
    for _ in 0..DUMP_TRIES {
        match dump(netlink.handle.clone()).await {
            Ok(Some(links)) => return Ok(links),
            Ok(None) => {}
            Err(error) => return Err(NetError::failed("list", "network interfaces", error)),
        }
    }
    let error = DumpError::Interrupted;
    Err(NetError::failed("list", "network interfaces", error))
}

/// One link by its name, at the same cost whatever else there is.
pub(in crate::host) async fn link_named(
    netlink: &Netlink,
    name: &str,
) -> Result<Option<Link>, NetError> {
    let mut answers = netlink.handle.link().get().match_name(name).execute();
    match answers.next().await {
        Some(Ok(message)) => Ok(Some(read(message))),
        Some(Err(rtnetlink::Error::NetlinkError(error))) if error.raw_code() == GONE => Ok(None),
        Some(Err(error)) => Err(NetError::failed("look at the interface", name, error)),
        None => {
            let error = DumpError::Incomplete;
            Err(NetError::failed("look at the interface", name, error))
        }
    }
}

/// One dump; `None` when the kernel says that it is not consistent.
async fn dump(mut handle: rtnetlink::Handle) -> Result<Option<Vec<Link>>, DumpError> {
    let mut message = LinkMessage::default();
    let mask = vec![LinkExtentMask::SkipStats];
    message.attributes.push(LinkAttribute::ExtMask(mask));
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetLink(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut answers = handle.request(request)?;
    let (mut links, mut consistent, mut done) = (Vec::new(), true, false);
    while let Some(answer) = answers.next().await {
        consistent &= answer.header.flags & NLM_F_DUMP_INTR == 0;
        match answer.payload {
            NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                links.push(read(link));
            }
            NetlinkPayload::Error(error) => return Err(DumpError::Refused(error)),
            NetlinkPayload::Done(_) => done = true,
            _ => {}
        }
    }
    if !done {
        return Err(DumpError::Incomplete);
    }
    Ok(consistent.then_some(links))
}

/// What a message says of a link.
pub(in crate::host) fn read(message: LinkMessage) -> Link {
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        kind: Kind::Other,
        alias: String::new(),
        up: message.header.flags.contains(LinkFlags::Up),
        master: None,
        group: 0,
        mac: Vec::new(),
        tap_owner: None,
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::IfAlias(alias) => link.alias = alias,
            LinkAttribute::Controller(index) => link.master = Some(index),
            LinkAttribute::Group(group) => link.group = group,
            LinkAttribute::Address(mac) => link.mac = mac,
            LinkAttribute::LinkInfo(infos) => read_info(&mut link, infos),
            _ => {}
        }
    }
    link
}

fn read_info(link: &mut Link, infos: Vec<LinkInfo>) {
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::Bridge) => link.kind = Kind::Bridge,
            LinkInfo::Kind(InfoKind::Tun) => link.kind = Kind::Tap,
            LinkInfo::Data(InfoData::Tun(data)) => link.tap_owner = data.iter().find_map(owner),
            _ => {}
        }
    }
}

fn owner(info: &InfoTun) -> Option<u32> {
    let mut value = [0; 4];
    if info.kind() != TUN_OWNER || info.value_len() != value.len() {
        return None;
    }
    info.emit_value(&mut value);
    Some(u32::from_ne_bytes(value))
}
