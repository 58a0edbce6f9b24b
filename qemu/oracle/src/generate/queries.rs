//! What is told about mounts and namespaces.

use rand::Rng;
use rand::seq::IndexedRandom;

use super::Generator;
use super::names::Kind;
use super::paths::Paths;

impl Generator {
    /// A question, of the caller's namespace or of another; `sees_all`: the caller may ask for all namespaces of the
    /// machine.
    pub(super) fn query(
        &mut self,
        task: usize,
        paths: &mut Paths<'_>,
        others: &[usize],
        sees_all: bool,
    ) -> String {
        let names = &mut self.tasks[task];
        let mount = match names.any(paths.rng, &[Kind::Mount]) {
            Some(name) if paths.rng.random_bool(0.4) => format!("%{name}"),
            _ => paths.any(),
        };
        let ns = match (names.any(paths.rng, &[Kind::Namespace]), names.any(paths.rng, &[Kind::NamespaceId]))
        {
            (Some(name), _) if paths.rng.random_bool(0.4) => format!("--ns-fd @{name} "),
            (_, Some(name)) if paths.rng.random_bool(0.4) => format!("--ns-id %{name} "),
            _ => String::new(),
        };
        match paths.rng.random_range(0..100) {
            0..15 => format!("%{} = mnt_id {}", names.add(Kind::Mount), paths.any()),
            15..30 => format!("listmount {ns}"),
            30..40 => format!("listmount {ns}{mount}"),
            40..50 => format!("listmount {ns}--reverse --max 3"),
            50..58 => format!("listmount {ns}--after {mount}"),
            58..70 => format!("statmount {ns}{mount}"),
            70..80 => match names.any(paths.rng, &[Kind::Namespace]) {
                Some(name) => format!("%{} = ioctl @{name} NS_GET_MNTNS_ID", names.add(Kind::NamespaceId)),
                None => {
                    let (file, id) = (names.add(Kind::Namespace), names.add(Kind::NamespaceId));
                    let other = others.choose(paths.rng).copied().unwrap_or(task);
                    let rest = [
                        format!("%{id} = ioctl @{file} NS_GET_MNTNS_ID"),
                        format!("listmount --ns-id %{id}"),
                        format!("statmount --ns-id %{id} {mount}"),
                    ];
                    self.queue.extend(rest.map(|text| (task, text)));
                    format!("@{file} = open @proc:{{t{other}}}/ns/mnt")
                }
            },
            80..84 => format!("statmount {ns}--mask root,point,type,source --size 530 {mount}"),
            84..87 => format!("statfs {}", paths.any()),
            87 => {
                // Of something else there is no next one.
                let kinds = [Kind::Users, Kind::File, Kind::Tree, Kind::Context, Kind::Listing];
                match names.any(paths.rng, &kinds) {
                    Some(name) => format!("ioctl @{name} NS_MNT_GET_NEXT"),
                    None => format!("statfs {}", paths.any()),
                }
            }
            _ => match names.any(paths.rng, &[Kind::Namespace]) {
                Some(name) => {
                    const WHAT: [&str; 4] =
                        ["NS_MNT_GET_INFO", "NS_GET_NSTYPE", "NS_GET_PARENT", "NS_GET_OWNER_UID"];
                    match paths.rng.random_range(0..8) {
                        0..3 => format!("%{} = ioctl @{name} NS_GET_MNTNS_ID", names.add(Kind::NamespaceId)),
                        3 => format!("@{} = ioctl @{name} NS_GET_USERNS", names.add(Kind::Users)),
                        // Who may ask would meet namespaces of other programs here, and keep them from ending.
                        4 if !sees_all => {
                            let next = ["NS_MNT_GET_NEXT NULL", "NS_MNT_GET_PREV"];
                            let next = next.choose(paths.rng).copied().unwrap_or(next[0]);
                            format!("@{} = ioctl @{name} {next}", names.add(Kind::Namespace))
                        }
                        _ => format!("ioctl @{name} {}", WHAT.choose(paths.rng).copied().unwrap_or(WHAT[0])),
                    }
                }
                None => format!("stat {}", paths.any()),
            },
        }
        .replace("  ", " ")
        .trim_end()
        .to_owned()
    }
}
