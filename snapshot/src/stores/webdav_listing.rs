//! The answer to PROPFIND. Only what a store needs is read; all other elements are skipped.

use crate::store::{StoreError, StoreErrorKind};
use percent_encoding::percent_decode_str;
use quick_xml::events::Event;
use quick_xml::reader::Reader;

/// The question.
pub(super) const PROPFIND: &[u8] = b"<?xml version=\"1.0\" encoding=\"utf-8\"?>\
    <propfind xmlns=\"DAV:\"><prop><resourcetype/><getcontentlength/></prop></propfind>";

/// One entry of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listed {
    /// Its name in the folder.
    pub(super) name: String,
    pub(super) is_folder: bool,
    pub(super) bytes: Option<u64>,
    /// How many folders its path has.
    depth: usize,
}

/// Reads the entries of a folder; the folder itself is left out.
pub(super) fn parse(body: &[u8]) -> Result<Vec<Listed>, StoreError> {
    let wrong = |error: &dyn std::fmt::Display| {
        StoreError::new(StoreErrorKind::Lasting, format!("the list cannot be read: {error}"))
    };
    let mut reader = Reader::from_reader(body);
    let (mut found, mut entry) = (Vec::new(), Listed::default());
    let mut text = String::new();
    loop {
        match reader.read_event().map_err(|error| wrong(&error))? {
            Event::Start(tag) => {
                text.clear();
                match tag.local_name().as_ref() {
                    b"response" => entry = Listed::default(),
                    b"collection" => entry.is_folder = true,
                    _ => {}
                }
            }
            Event::Empty(tag) if tag.local_name().as_ref() == b"collection" => {
                entry.is_folder = true;
            }
            Event::Text(part) => text.push_str(&part.decode().map_err(|error| wrong(&error))?),
            Event::CData(part) => text.push_str(&part.decode().map_err(|error| wrong(&error))?),
            Event::GeneralRef(part) => {
                let name = part.decode().map_err(|error| wrong(&error))?;
                let code = part.resolve_char_ref().map_err(|error| wrong(&error))?;
                let named = quick_xml::escape::resolve_predefined_entity(&name);
                match (code, named) {
                    (Some(code), _) => text.push(code),
                    (None, Some(named)) => text.push_str(named),
                    (None, None) => return Err(wrong(&"an unknown entity")),
                }
            }
            Event::End(tag) => match tag.local_name().as_ref() {
                b"href" => (entry.name, entry.depth) = last(text.trim()),
                b"getcontentlength" => entry.bytes = text.trim().parse().ok(),
                b"response" => found.push(std::mem::take(&mut entry)),
                _ => {}
            },
            Event::Eof => break,
            _ => {}
        }
    }
    // The folder itself has the shortest path.
    let this = (0..found.len()).min_by_key(|index| found[*index].depth);
    this.map(|index| found.swap_remove(index));
    found.retain(|entry| !entry.name.is_empty());
    Ok(found)
}

/// The last part of a path or an address, and how many there are.
fn last(href: &str) -> (String, usize) {
    let path =
        href.split_once("://").map_or(href, |(_, rest)| rest.split_once('/').unwrap_or_default().1);
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    let name = percent_decode_str(parts.last().copied().unwrap_or_default());
    (name.decode_utf8_lossy().into_owned(), parts.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lists_of_different_servers_are_read() {
        let apache = r#"<?xml version="1.0" encoding="utf-8"?>
            <D:multistatus xmlns:D="DAV:"><D:response xmlns:lp1="DAV:"><D:href>/dav/chunk/</D:href>
            <D:propstat><D:prop><lp1:resourcetype><D:collection/></lp1:resourcetype></D:prop>
            <D:status>HTTP/1.1 200 OK</D:status></D:propstat></D:response>
            <D:response><D:href>/dav/chunk/ab%20c</D:href><D:propstat><D:prop><lp1:resourcetype/>
            <lp1:getcontentlength>17</lp1:getcontentlength></D:prop></D:propstat></D:response>
            <D:response><D:href>/dav/chunk/a&amp;b/</D:href><D:propstat><D:prop><D:resourcetype>
            <D:collection></D:collection></D:resourcetype></D:prop></D:propstat></D:response>
            </D:multistatus>"#;
        let nginx = r#"<multistatus xmlns="DAV:"><response><href>https://h/dav/chunk/0a</href>
            <propstat><prop><getcontentlength>5</getcontentlength></prop></propstat></response>
            <response><href>https://h/dav/chunk/</href><propstat><prop><resourcetype><collection/>
            </resourcetype></prop></propstat></response></multistatus>"#;
        let names = |text: &str| {
            let mut entries = parse(text.as_bytes()).unwrap();
            entries.sort_by(|a, b| a.name.cmp(&b.name));
            entries.into_iter().map(|e| (e.name, e.is_folder, e.bytes)).collect::<Vec<_>>()
        };
        assert_eq!(
            names(apache),
            [("a&b".to_owned(), true, None), ("ab c".to_owned(), false, Some(17))]
        );
        assert_eq!(names(nginx), [("0a".to_owned(), false, Some(5))]);
        assert!(parse(b"<multistatus><response></wrong>").is_err());
        assert!(parse(b"<a>&bomb;</a>").is_err());
        assert_eq!(parse(b"").unwrap(), []);
    }
}
