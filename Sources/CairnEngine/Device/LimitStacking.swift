public import CairnCore

/// Stacking of queue limits as the block layer does it. Source: facts of `block/blk-settings.c` (blk_stack_limits).
extension QueueLimits {
    /// Start values of a table: nothing restricts yet.
    public static var stackable: QueueLimits {
        var limits = QueueLimits()
        limits.maximumDiscard = .max
        limits.maximumWriteZeroes = .max
        return limits
    }

    /// Stack `below`, used from sector `start`, under these limits.
    public mutating func stack(_ below: QueueLimits, start: Sectors) {
        logicalBlock = max(logicalBlock, below.logicalBlock)
        physicalBlock = max(physicalBlock, below.physicalBlock)
        ioMinimum = max(ioMinimum, below.ioMinimum)
        ioOptimal = Self.commonMultiple(ioOptimal, below.ioOptimal)
        maximumTransfer = Self.minimumNotZero(maximumTransfer, below.maximumTransfer)
        chunk = Self.commonDivisor(chunk, below.chunk)
        maximumWriteZeroes = min(maximumWriteZeroes, below.maximumWriteZeroes)
        if below.discardGranularity > 0 {
            maximumDiscard = Self.minimumNotZero(maximumDiscard, below.maximumDiscard)
            discardGranularity = max(discardGranularity, below.discardGranularity)
        }
        volatileCache = volatileCache || below.volatileCache
        misaligned = misaligned || below.misaligned
        if start.bytes.count % UInt64(max(below.physicalBlock, below.ioMinimum)) != 0 { misaligned = true }
        correct()
    }

    private mutating func correct() {
        if physicalBlock % logicalBlock != 0 { physicalBlock = logicalBlock; misaligned = true }
        if ioMinimum % physicalBlock != 0 { ioMinimum = physicalBlock; misaligned = true }
        if ioOptimal % physicalBlock != 0 { ioOptimal = 0; misaligned = true }
        if (UInt64(chunk) << 9) % UInt64(physicalBlock) != 0 { chunk = 0; misaligned = true }
        let logicalSectors = logicalBlock >> 9
        if maximumTransfer > 0 { maximumTransfer = max(8, maximumTransfer / logicalSectors * logicalSectors) }
    }

    static func minimumNotZero(_ a: UInt32, _ b: UInt32) -> UInt32 { a == 0 ? b : b == 0 ? a : min(a, b) }
    static func commonDivisor(_ a: UInt32, _ b: UInt32) -> UInt32 {
        var (x, y) = (a, b)
        while y != 0 { (x, y) = (y, x % y) }
        return x
    }
    static func commonMultiple(_ a: UInt32, _ b: UInt32) -> UInt32 {
        if a == 0 || b == 0 { return max(a, b) }
        let product = UInt64(a / commonDivisor(a, b)) * UInt64(b)
        return product > UInt64(UInt32.max) ? 0 : UInt32(product)
    }
}
