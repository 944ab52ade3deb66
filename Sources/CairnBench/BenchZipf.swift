import CairnCore
import Glibc

/// Ranks 1 ... n in proportion to 1/rank^theta, theta > 0, by rejection-inversion (Hörmann and Derflinger 1996): no table, so a
/// working set of any size costs the same, and a draw takes little more than one logarithm and one power.
struct BenchZipf {
    private let theta: Double
    private let low: Double, high: Double, cut: Double
    private let n: Double

    init(_ n: UInt64, theta: Double) {
        self.theta = theta
        self.n = Double(n)
        low = Self.integral(1.5, theta) - 1
        high = Self.integral(Double(n) + 0.5, theta)
        cut = 2 - Self.inverse(Self.integral(2.5, theta) - pow(2, -theta), theta)
    }

    /// The integral of x^-theta, and its inverse; the logarithm stands in where the exponent is too near 1.
    private static func integral(_ x: Double, _ theta: Double) -> Double {
        let power = 1 - theta
        return power.magnitude < 1e-9 ? log(x) : (pow(x, power) - 1) / power
    }
    private static func inverse(_ y: Double, _ theta: Double) -> Double {
        let power = 1 - theta
        return power.magnitude < 1e-9 ? exp(y) : pow(max(0, y * power + 1), 1 / power)
    }

    /// 0 ..< n.
    func draw(_ random: inout SplitMix64) -> UInt64 {
        while true {
            let u = high + Double(random.next() >> 11) * 0x1p-53 * (low - high)
            let x = Self.inverse(u, theta)
            let rank = min(max(x.rounded(), 1), n)
            if rank - x <= cut || u >= Self.integral(rank + 0.5, theta) - pow(rank, -theta) { return UInt64(rank) - 1 }
        }
    }
}
