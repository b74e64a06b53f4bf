"""How long calls will take: learned one call at a time, told with intervals. Pure; numpy only."""
