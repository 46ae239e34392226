//! Which records are shown.

use failcore_model::{AbsPath, Action, Endpoint, Event, FileRef, NativeObject, Record, UnixAddr};

use crate::args::Filter;
use crate::failure::{Failure, Problem};

/// A filter made ready.
pub(crate) struct Chosen {
    filter: Filter,
    below: Option<AbsPath>,
}

impl Chosen {
    /// Reads the filter; a relative path counts from the working directory.
    pub(crate) fn new(filter: Filter) -> Result<Self, Failure> {
        let below = filter.path.as_deref().map(|path| {
            let absolute = std::path::absolute(path).map_err(|error| Problem::io("resolve", path, error))?;
            AbsPath::lexical(absolute.as_os_str().as_encoded_bytes()).map_err(|error| Problem::Nonsense {
                what: format!("`{}`: {error}", path.display()),
                help: "give a path below which files are shown".into(),
            })
        });
        let below = below.transpose()?;
        Ok(Self { filter, below })
    }

    /// Whether it has a condition at all.
    pub(crate) fn is_narrow(&self) -> bool {
        let Filter { denied, verb, tool, path } = &self.filter;
        *denied || !verb.is_empty() || tool.is_some() || path.is_some()
    }

    /// Whether it shows nothing but what was refused.
    pub(crate) fn is_of_refusals(&self) -> bool {
        self.filter.denied
    }

    /// Whether the record is to be shown. Without conditions every record is; with any, only decisions that meet
    /// them all.
    pub(crate) fn has(&self, record: &Record) -> bool {
        let Filter { denied, verb, tool, .. } = &self.filter;
        let Event::Decided { request, decision, .. } = &record.event else { return !self.is_narrow() };
        let action = &request.action;
        (!denied || !decision.is_allow())
            && (verb.is_empty() || verb.iter().any(|verbs| verbs.0.contains(&action.verb())))
            && tool.as_ref().is_none_or(|tool| {
                request.subject.claimed.scope.iter().any(|scope| scope.as_bytes() == tool.as_bytes())
            })
            && self
                .below
                .as_ref()
                .is_none_or(|dir| files(action).into_iter().flatten().any(|file| file.path.is_within(dir)))
    }
}

/// The files that an action names.
pub(crate) fn files(action: &Action) -> [Option<&FileRef>; 2] {
    match action {
        Action::Open { file, .. }
        | Action::Read(file)
        | Action::Create(file)
        | Action::Modify(file)
        | Action::Delete(file)
        | Action::Attr(file)
        | Action::Symlink { at: file, .. }
        | Action::Exec { image: file, .. }
        | Action::Load(NativeObject::Library(file))
        | Action::IpcConnect(UnixAddr::Path(file))
        | Action::Bind(Endpoint::Unix(UnixAddr::Path(file))) => [Some(file), None],
        Action::Rename { from, to } | Action::Link { from, to } => [Some(from), Some(to)],
        _ => [None, None],
    }
}
