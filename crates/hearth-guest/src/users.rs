//! Who a program runs as, from the image's own `/etc/passwd` and `/etc/group`: a static
//! binary has no NSS, and the image's may be another libc's.

use std::fs;

/// A resolved user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
    pub(crate) name: String,
}

/// Resolves `user[:group]`, names or numbers, as docker does.
pub(crate) fn resolve(spec: &str) -> Result<User, String> {
    let read = |path| fs::read_to_string(path).unwrap_or_default();
    resolve_in(spec, &read("/etc/passwd"), &read("/etc/group"))
}

fn resolve_in(spec: &str, passwd: &str, group: &str) -> Result<User, String> {
    let (user, wanted_group) = match spec.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (spec, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let mut found = find_user(user, passwd)?;
    match wanted_group.filter(|group| !group.is_empty()) {
        Some(wanted) => found.gid = find_group(wanted, group)?,
        None => found.groups = supplementary(&found, group),
    }
    if !found.groups.contains(&found.gid) {
        found.groups.insert(0, found.gid);
    }
    Ok(found)
}

fn find_user(user: &str, passwd: &str) -> Result<User, String> {
    let number = user.parse::<u32>().ok();
    let entry = passwd.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = fields[..] else {
            return None;
        };
        let (uid, gid) = (uid.parse().ok()?, gid.parse().ok()?);
        (name == user || number == Some(uid)).then(|| User {
            uid,
            gid,
            groups: Vec::new(),
            home: home.to_owned(),
            name: name.to_owned(),
        })
    });
    match (entry, number) {
        (Some(entry), _) => Ok(entry),
        (None, Some(uid)) => Ok(User {
            uid,
            gid: 0,
            groups: Vec::new(),
            home: if uid == 0 { "/root" } else { "/" }.to_owned(),
            name: if uid == 0 {
                "root".to_owned()
            } else {
                String::new()
            },
        }),
        (None, None) => Err(format!("the image has no user {user:?} in /etc/passwd")),
    }
}

fn groups(file: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    file.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
        Some((name, gid, fields.next().unwrap_or_default()))
    })
}

fn find_group(wanted: &str, file: &str) -> Result<u32, String> {
    if let Some((_, gid, _)) = groups(file).find(|(name, ..)| *name == wanted) {
        return Ok(gid);
    }
    wanted
        .parse()
        .map_err(|_| format!("the image has no group {wanted:?} in /etc/group"))
}

fn supplementary(user: &User, file: &str) -> Vec<u32> {
    groups(file)
        .filter(|(.., members)| {
            !user.name.is_empty() && members.split(',').any(|member| member == user.name)
        })
        .map(|(_, gid, _)| gid)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::resolve_in;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34::/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlog:x:50:ann,web\nadm:x:51:website\n";

    #[test]
    fn names_and_numbers_as_docker_reads_them() {
        for (spec, uid, gid, groups, home) in [
            ("", 0, 0, vec![0], "/root"),
            ("web", 33, 34, vec![34, 50], "/var/www"),
            ("33", 33, 34, vec![34, 50], "/var/www"),
            ("web:log", 33, 50, vec![50], "/var/www"),
            ("1000", 1000, 0, vec![0], "/"),
            ("1000:77", 1000, 77, vec![77], "/"),
        ] {
            let user = resolve_in(spec, PASSWD, GROUP).unwrap();
            assert_eq!(
                (user.uid, user.gid, user.groups, user.home.as_str()),
                (uid, gid, groups, home),
                "{spec}"
            );
        }
        assert!(resolve_in("nobody", PASSWD, GROUP).is_err());
        assert!(resolve_in("web:nope", PASSWD, GROUP).is_err());
        assert_eq!(resolve_in("0", "", "").unwrap().home, "/root");
    }
}
