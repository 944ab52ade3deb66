import CairnCore
import CairnEngine

/// Numbers of table lines as the kernel reads them: decimal, nothing before or behind.
func decimal<T: FixedWidthInteger & UnsignedInteger>(_ word: TableWord, _ type: T.Type = T.self) -> T? {
    guard !word.text.isEmpty, word.text.utf8.allSatisfy({ $0 >= 48 && $0 <= 57 }) else { return nil }
    return T(word.text)
}

func sectorNumber(_ word: TableWord) throws(TargetError) -> Sectors {
    guard let n = decimal(word, UInt64.self), n <= Sectors.maximum.count else { throw TargetError("Invalid device sector") }
    return Sectors(n)
}
