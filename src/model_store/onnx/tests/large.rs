//! A file far too large to be held, which is therefore not held.

use super::*;

/// A file of any length that is never held: its beginning, a hole of zeros, its end.
struct Holey {
    head: Vec<u8>,
    hole: u64,
    tail: Vec<u8>,
    position: u64,
    read: u64,
}

impl Read for Holey {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let (head, hole) = (self.head.len() as u64, self.hole);
        let mut count = 0;
        for slot in buffer {
            let at = self.position;
            let byte = if at < head {
                self.head.get(usize::try_from(at).unwrap()).copied()
            } else if at < head + hole {
                Some(0)
            } else {
                self.tail
                    .get(usize::try_from(at - head - hole).unwrap())
                    .copied()
            };
            let Some(byte) = byte else { break };
            *slot = byte;
            self.position += 1;
            count += 1;
        }
        self.read += count as u64;
        Ok(count)
    }
}

impl Seek for Holey {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.position = match to {
            SeekFrom::Start(at) => at,
            SeekFrom::Current(by) => self.position.saturating_add_signed(by),
            SeekFrom::End(_) => return Err(ErrorKind::Unsupported.into()),
        };
        Ok(self.position)
    }
}

#[test]
fn weights_of_gigabytes_are_not_read() {
    let hole = 3 << 30;
    // GraphProto { initializer { data_type, name, raw_data (the hole) } output }, opset.
    let tensor_head = [tensor("w", 1, &[]), varint(9 << 3 | 2), varint(hole)].concat();
    let tensor_len = tensor_head.len() as u64 + hole;
    let graph_head = [varint(5 << 3 | 2), varint(tensor_len), tensor_head].concat();
    let graph_tail = value_info(12, "y", 1, &[]);
    let graph_len = graph_head.len() as u64 + hole + graph_tail.len() as u64;
    let head = [int(1, 8), varint(7 << 3 | 2), varint(graph_len), graph_head].concat();
    let tail = [graph_tail, message(8, &[int(2, 17)])].concat();
    let len = head.len() as u64 + hole + tail.len() as u64;
    let mut file = Holey {
        head,
        hole,
        tail,
        position: 0,
        read: 0,
    };
    let facts = read_from(&mut file, len, parse::Limits::DEFAULT).unwrap();
    assert_eq!(facts.outputs.len(), 1);
    assert!(file.read < 64 * 1024, "{} bytes read", file.read);
}
