import CairnStorm
import Testing

@Suite("The storm")
struct StormTests {
    @Test("a fixed set of seeds, without a violation", arguments: StormTarget.all.map(\.name))
    func fixedSet(name: String) throws {
        for target in StormTarget.named(name) where target.name == name {
            for seed in UInt64(1)...6 {
                let first = Storm.run(target, seed: seed), second = Storm.run(target, seed: seed)
                #expect(first.violation == nil, "\(name) seed \(seed): \(first.violation?.text ?? "")")
                #expect(first.hash == second.hash, "\(name) seed \(seed) is not reproducible")
                #expect(first.crashes + first.kills + first.closes >= 5)
            }
        }
    }
}
